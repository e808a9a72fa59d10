import errno
import json
import os
import pickle
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairnb.errors import UserError
from fairnb.files import read_json, require, root, write_atomically, write_json
from fairnb.measure.ffd_results import read_ffd_records, read_test_results, write_test_results
from fairnb.measure.metrics import bias_by_prompt
from fairnb.measure.provenance import provenance
from fairnb.measure.record_files import left_out, load_records, save_records
from fairnb.measure.records import attributes_of, read_records, write_records
from fairnb.profiles import load_profile


def table() -> pd.DataFrame:
    """Two prompts of two images; the last image has no face."""
    return pd.DataFrame(
        {
            "prompt_id": [0, 0, 4, 4],
            "prompt": ["a photo of a doctor"] * 2 + ["a photo of a nurse"] * 2,
            "occupation": ["doctor"] * 2 + ["nurse"] * 2,
            "split": "test",
            "image": [0, 1, 0, 1],
            "seed": 0,
            "path": ["a.png", "b.png", "c.png", "d.png"],
            "face": [True, True, True, False],
            "face_probability": [0.99, 0.98, 0.97, 0.0],
            "box_x0": [1.0, 2, 3, np.nan],
            "box_y0": [1.0, 2, 3, np.nan],
            "box_x1": [9.0, 9, 9, np.nan],
            "box_y1": [9.0, 9, 9, np.nan],
            "gender": ["male", "female", "female", None],
            "gender_female": [0.1, 0.8, 0.9, np.nan],
            "gender_male": [0.9, 0.2, 0.1, np.nan],
        }
    )


def test_records_round_trip(tmp_path: Path) -> None:
    path = write_records(table(), tmp_path / "new" / "records.parquet")
    again = read_records(path)
    pd.testing.assert_frame_equal(again, table(), check_dtype=False)
    assert [attribute.name for attribute in attributes_of(again)] == ["gender"]
    assert os.listdir(path.parent) == ["records.parquet"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="face"), "column 'face' is missing"),
        (lambda t: t.drop(columns="gender_male"), "column 'gender_male' is missing"),
        (lambda t: t.assign(image="one"), "column 'image' has the wrong type"),
        (lambda t: t.assign(gender="robot"), "'robot', which is no class"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, change, says: str) -> None:
    with pytest.raises(UserError, match=says):
        write_records(change(table()), tmp_path / "records.parquet")
    assert not any(tmp_path.iterdir())
    change(table()).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(UserError, match="foreign.parquet"):
        read_records(tmp_path / "foreign.parquet")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(UserError, match="cut.parquet"):
        read_records(tmp_path / "cut.parquet")
    with pytest.raises(UserError, match="cut.json"):
        read_json(tmp_path / "cut.json")
    with pytest.raises(UserError, match="none.st is missing: run notebook 03_find_bias_neurons first"):
        require(tmp_path / "none.st", "03_find_bias_neurons")


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fills_the_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"result.txt cannot be written \(No space left on device\)"):
        write_atomically(path, fills_the_disk)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another output folder"):
        write_json(tmp_path / "file" / "below" / "x.json", {})


def test_json_is_plain(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"nan": float("nan"), "np": np.float32(0.5), "path": Path("a"), "t": (1, 2)})
    assert json.loads(path.read_text()) == {"nan": None, "np": 0.5, "path": "a", "t": [1, 2]}


def test_provenance_has_no_path_of_this_machine() -> None:
    about = provenance(load_profile("mini"), [0, 1])
    assert set(about) == {"parameters", "seeds", "versions", "git_commit", "device", "processors", "time"}
    assert about["seeds"] == [0, 1] and about["parameters"]["prompts"] == "fairnb:data/prompts/mini.json"
    assert str(root()) not in json.dumps(about["parameters"])
    assert provenance({"seed": 5})["seeds"] == [5]


def test_provenance_names_the_device_that_is_used(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a large GPU")
    assert provenance({"device": "cpu"})["device"] == f"{platform.machine()} cpu"
    assert provenance({"device": "cuda:0"})["device"] == "a large GPU"


def test_ffd_results_round_trip(tmp_path: Path) -> None:
    path = write_test_results(table(), tmp_path / "test_results.pkl")
    found, boxes, gender, race, age = read_test_results(path)
    assert found[4].tolist() == [True, False] and found[0].dtype == torch.bool
    assert boxes[4].tolist() == [[3, 3, 9, 9], [-1, -1, -1, -1]]
    assert gender[0].argmax(-1).tolist() == [1, 0]
    torch.testing.assert_close(gender[0].softmax(-1), torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
    assert gender[4][1].tolist() == [-1, -1] and race == {} and age == {}
    # FFD's own way to read it
    with path.open("rb") as stream:
        assert len(pickle.load(stream)) == 5


def test_ffd_results_come_back_as_records(tmp_path: Path) -> None:
    written = table().assign(
        gender=pd.Series(["male", "female", "female", None], dtype=object),
        race=pd.Series(["Asian", "WMELH", "Indian", None], dtype=object),
        **{f"race_{name}": [0.1, 0.4, 0.2, np.nan] for name in ("WMELH", "Black")},
        race_Indian=[0.2, 0.1, 0.5, np.nan],
        race_Asian=[0.6, 0.1, 0.1, np.nan],
    )
    records = read_ffd_records(write_test_results(written, tmp_path / "test_results.pkl"))
    held = [name for name in written if name not in ("prompt", "occupation", "path", "face_probability")]
    pd.testing.assert_frame_equal(records[held], written[held], check_dtype=False, atol=1e-6)
    assert "age" not in records and records.path[3] == "prompt_4/img_1.jpg" and records.prompt[2] == "prompt 4"
    assert bias_by_prompt(records, "race").n.tolist() == [2, 1]
    write_test_results(records, tmp_path / "again.pkl")
    for ours, theirs in zip(*map(read_test_results, tmp_path.glob("*.pkl")), strict=True):
        assert ours.keys() == theirs.keys()
        for number in ours:
            torch.testing.assert_close(ours[number], theirs[number])


def ffd_parts() -> list[dict]:
    """What eval-generated-images.py writes: a list; boxes of whole pixels; logits also of images without a face."""
    logits = torch.tensor([[2.0, -3.0], [5.0, 1.0], [-1.0, 4.0]])
    boxes = torch.tensor([[10, 20, 300, 310], [-1, -1, -1, -1], [-4, 7, 250, 261]])
    face = torch.tensor([True, False, True])
    return [{10: face, 2: face[:1]}, {10: boxes, 2: boxes[:1]}, {10: logits, 2: logits[:1]}, {}, {}]


def test_ffds_own_results_are_read(tmp_path: Path) -> None:
    path = tmp_path / "test_results.pkl"
    path.write_bytes(pickle.dumps(ffd_parts()))
    records = read_ffd_records(path)
    assert records.prompt_id.tolist() == [2, 10, 10, 10] and records.image.tolist() == [0, 0, 1, 2]
    assert records.gender.tolist() == ["female", "female", None, "male"]
    assert records.box_x0.tolist()[::3] == [10, -4] and np.isnan(records.box_x0[2]) and np.isnan(records.gender_male[2])
    np.testing.assert_allclose(records.gender_male[3], 1 / (1 + np.exp(-5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        (0, {10: [True, False, True]}, "face_indicators of prompt 10 are no tensor of true and false"),
        (0, {10: torch.tensor([0.9, 0.1, 0.8])}, "face_indicators of prompt 10 are no tensor of true and false"),
        (0, {"10": torch.ones(3).bool()}, "face_bboxs and face_indicators are of different prompts"),
        (1, {2: torch.zeros(3, 4)}, "face_bboxs and face_indicators are of different prompts"),
        (1, {10: torch.zeros(2, 4)}, r"face_bboxs are \(2, 4\), but prompt 10 has 3 images"),
        (2, {10: torch.zeros(3, 7)}, r"gender_logits are \(3, 7\), but .* a tensor of shape \(3, 2\)"),
        (2, {10: torch.full((3, 2), torch.nan)}, "gender_logits of prompt 10 hold NaN"),
        (2, {}, "holds no images with logits"),
    ],
)
def test_parts_of_ffds_results_that_do_not_fit_are_named(tmp_path: Path, part: int, value: dict, says: str) -> None:
    path = tmp_path / "test_results.pkl"
    parts = [{key: one for key, one in each.items() if key == 10} for each in ffd_parts()]
    parts[part] = value
    path.write_bytes(pickle.dumps(parts))
    with pytest.raises(UserError, match=says):
        read_ffd_records(path)
    path.write_bytes(pickle.dumps([{str(key): one for key, one in each.items()} for each in ffd_parts()]))
    with pytest.raises(UserError, match="do not lead from prompt numbers to tensors"):
        read_ffd_records(path)


class _Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    plain, nested = tmp_path / "plain.pkl", tmp_path / "nested.pkl"
    plain.write_bytes(pickle.dumps(_Attack(tmp_path / "owned")))

    class Smuggler:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(_Attack(tmp_path / "owned")),)

    nested.write_bytes(pickle.dumps(Smuggler()))
    for path in (plain, nested):
        with pytest.raises(UserError, match=path.name):
            read_test_results(path)
    assert not (tmp_path / "owned").exists()


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for content in (pickle.dumps([1, 2]), pickle.dumps({"a": 1}), b"", b"\x80\x04"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x.pkl"):
            read_test_results(path)


def test_records_are_read_in_every_form_by_their_content(tmp_path: Path) -> None:
    odd = table().assign(prompt=["None"] * 2 + ["NA, 'null'\nand \u00e4"] * 2, occupation=None)
    for name in ("r.parquet", "r.csv", "R.CSV", "again.csv"):
        again = load_records(save_records(odd, tmp_path / name))
        pd.testing.assert_frame_equal(
            again.drop(columns="occupation"), odd.drop(columns="occupation"), check_dtype=False
        )
        assert again.occupation.isna().all() and again.face.dtype == bool
    odd.to_csv(tmp_path / "semicolons.csv", index=False, sep=";", encoding="utf-8-sig")
    assert load_records(tmp_path / "semicolons.csv").equals(load_records(tmp_path / "r.csv"))
    for name, other in (("r.csv", "a.parquet"), ("r.parquet", "b.csv")):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        assert load_records(tmp_path / other).equals(load_records(tmp_path / name))
    ffd = load_records(save_records(table(), tmp_path / "test_results.pkl"))
    assert ffd.gender.tolist()[:3] == ["male", "female", "female"] and ffd.prompt_id.tolist() == [0, 0, 4, 4]
    save_records(table(), tmp_path / "audit" / "records.parquet")
    assert load_records(tmp_path / "audit").equals(load_records(tmp_path / "audit" / "records.parquet"))


def test_what_a_form_cannot_hold_is_named(tmp_path: Path) -> None:
    tones = dict.fromkeys([f"skin_tone_{name}" for name in ("light", "medium", "brown", "dark")], 0.25)
    both = table().assign(skin_tone=["light", "dark", "dark", None], **tones)
    assert left_out(both, "x.pkl") == ["skin_tone"] and left_out(both, "x.csv") == []
    alone = both.drop(columns=["gender", "gender_female", "gender_male"])
    with pytest.raises(UserError, match="x.pkl: FFD's form holds gender, race, age, none of which was measured"):
        save_records(alone, tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"x.txt has no form of records: name a file that ends in .parquet, .csv, .pkl"):
        save_records(both, tmp_path / "x.txt")
    with pytest.raises(UserError, match="is a folder: name a file that ends in"):
        save_records(both, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as CSV"),
        (b"a,b\n1,2\n", "column 'prompt_id' is missing"),
        (b'a,b\n"1,2\n', "cannot be read as CSV"),
        (b"\xff\xfe\x00x", "cannot be read as CSV"),
        (b"PAR1 and no more", "cannot be read"),
        (b"\x80\x04N.", "is not FFD's test_results.pkl"),
    ],
)
def test_what_is_no_file_of_records_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_records(path)
    with pytest.raises(UserError, match="holds no records.parquet"):
        load_records(tmp_path)
    with pytest.raises(UserError, match="none.csv cannot be read"):
        load_records(tmp_path / "none.csv")
