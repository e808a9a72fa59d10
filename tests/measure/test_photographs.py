"""Photographs with captions: MPII in its true structure, folders with captions, and one person in each."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fairnb.errors import UserError
from fairnb.measure.metrics import bias_by_prompt
from fairnb.measure.photographs import one_person, read_captioned, read_mpii
from fairnb.miniworld.draw.portrait import portrait
from fairnb.prompts.attributes import GENDER
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.faces import load_detector
from tests.conftest import MINI


def write_mpii(path, activities: dict[str, str | None]) -> None:
    """An annotation file as MPII's: structs in structs, a test image without an activity has an empty one."""
    names = list(activities)
    annolist = np.zeros((1, len(names)), dtype=[("image", "O"), ("annorect", "O"), ("frame_sec", "O"), ("vididx", "O")])
    act = np.zeros((len(names), 1), dtype=[("act_name", "O"), ("cat_name", "O"), ("act_id", "O")])
    for i, name in enumerate(names):
        annolist[0, i] = ({"name": name}, {"x1": 10.0, "y1": 20.0, "scale": 1.5}, 1.0, 1.0)
        what = activities[name]
        act[i, 0] = (what, "work", 7) if what else (np.zeros((0, 0)), np.zeros((0, 0)), -1)
    single = np.empty((len(names), 1), dtype=object)
    single[:] = 1.0
    release = {"annolist": annolist, "img_train": np.ones((1, len(names))), "version": "12", "act": act}
    savemat(path, {"RELEASE": release | {"single_person": single}})


def draw(path, gender: str, seed: int, people: int = 1) -> None:
    rng = np.random.default_rng(seed)
    faces = [np.asarray(portrait("doctor", gender, "light", "young", None, "photo", rng)) for _ in range(people)]
    Image.fromarray(np.concatenate(faces, 1)).save(path)


def test_mpii_is_read_as_it_is_downloaded(tmp_path):
    activities = {"a.jpg": "bicycling, mountain", "b.jpg": None, "c.jpg": "cooking", "gone.jpg": "cooking"}
    write_mpii(tmp_path / "mpii.mat", activities)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    photos = read_mpii(tmp_path / "mpii.mat", tmp_path)
    assert photos.path.tolist() == ["a.jpg", "c.jpg"] and photos.attrs == {"missing": 1}
    assert photos.activity.tolist() == ["bicycling, mountain", "cooking"]
    assert photos.caption[0] == "a photo of a person, bicycling, mountain"
    with pytest.raises(UserError, match="holds none of the 3 images that .*mpii.mat names, for example a.jpg"):
        read_mpii(tmp_path / "mpii.mat", tmp_path / "elsewhere")
    savemat(tmp_path / "other.mat", {"x": 1})
    (tmp_path / "text.mat").write_text("no annotation")
    for name in ("other.mat", "text.mat", "none.mat"):
        with pytest.raises(UserError, match=f"{name} cannot be read as MPII's annotation"):
            read_mpii(tmp_path / name, tmp_path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "captions.csv"])
def test_a_folder_with_captions_is_read(tmp_path, name):
    (tmp_path / "a.png").write_bytes(b"")
    lines = [{"file_name": "a.png", "text": "a nurse, smiling"}, {"file_name": "b.png", "text": "a cook"}]
    if name.endswith("jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)) + "\n")
    else:
        (tmp_path / name).write_text('file_name,caption\na.png,"a nurse, smiling"\nb.png,a cook\n')
    photos = read_captioned(tmp_path)
    assert photos.values.tolist() == [["a.png", "a nurse, smiling", "a nurse, smiling"]]
    assert photos.attrs == {"missing": 1}
    (tmp_path / name).write_text('{"text": 1}' if name.endswith("jsonl") else "a,b\n1,2\n")
    with pytest.raises(UserError, match=f"{name} cannot be read as captions"):
        read_captioned(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="has no captions: write metadata.jsonl"):
        read_captioned(tmp_path)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a.png,"], "line 1 has no text for a.png"),
        (["a.png,a cook", "a.png,a nurse"], "names a.png twice, so it would be counted twice"),
    ],
)
def test_captions_that_would_be_counted_wrongly_are_named(tmp_path, lines, says):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "captions.csv").write_text("\n".join(["file_name,caption", *lines]))
    with pytest.raises(UserError, match=says):
        read_captioned(tmp_path)


def test_photographs_of_one_person_are_kept_and_counted_by_activity(tmp_path):
    plan = {"cooking": ["female"] * 5 + ["male"], "climbing": ["male"] * 5 + ["female"]}
    lines, seed = [], 0
    for activity, genders in plan.items():
        for gender in genders:
            draw(tmp_path / f"{seed}.png", gender, seed)
            lines.append({"file_name": f"{seed}.png", "text": f"someone {activity}", "activity": activity})
            seed += 1
    draw(tmp_path / "two.png", "male", 99, people=2)
    Image.new("RGB", (64, 64), "green").save(tmp_path / "none.png")
    lines += [{"file_name": name, "text": "climbing", "activity": "climbing"} for name in ("two.png", "none.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    detector, judge = load_detector(), load_classifier(MINI / "judge")
    records = one_person(read_captioned(tmp_path), tmp_path, detector, judge)
    assert len(records) == 12 and (records.faces == 1).all() and records.caption[0] == "someone cooking"
    table = bias_by_prompt(records, "gender").set_index("prompt")
    assert set(GENDER.classes) <= set(table) and table.female["cooking"] > 0.6 and table.male["climbing"] > 0.6
    assert (table.low <= table.bias).all()
    with pytest.raises(UserError, match="of the 2 photographs in .* none shows exactly one face"):
        one_person(read_captioned(tmp_path).tail(2), tmp_path, detector, judge)
