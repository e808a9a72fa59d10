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
from fairnb.measure.ffd_results import read_test_results, write_test_results
from fairnb.measure.provenance import provenance
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
