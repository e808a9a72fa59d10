"""Results are copied to any place that fsspec knows: whole files, only new ones, and back."""

import os
from pathlib import Path

import fsspec
import pytest

from fairnb.errors import UserError
from fairnb.experiments.sync import COPIED, sync
from tests.cli.test_models import call


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != COPIED)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, text in {"a.json": "{}", "images/prompt_0/img_0.png": "one", "images/prompt_0/img_1.png": "two"}.items():
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_text(text)
    (tmp_path / "results" / ".in-use").touch()
    (tmp_path / "results" / "images" / ".img_2.0a1b2c3d.part.png").write_text("half")
    return tmp_path / "results"


def test_what_is_new_is_copied_there_and_back(results: Path, tmp_path: Path, capsys):
    store = f"file://{tmp_path / 'store'}"
    assert sync(str(results), store) == (3, 0)
    wanted = {name: data for name, data in files(results).items() if "/." not in f"/{name}"}
    assert files(tmp_path / "store") == wanted and len(wanted) == 3
    assert sync(str(results), store) == (0, 3)
    changed = results / "a.json"
    changed.write_text("[]")  # as long as before
    os.utime(changed, (1, 1))  # by a clock that was set back
    assert sync(str(results), store) == (1, 2)
    assert (tmp_path / "store" / "a.json").read_text() == "[]"
    (tmp_path / "store" / "more.txt").touch()
    assert sync(store, str(tmp_path / "back")) == (4, 0) and files(tmp_path / "back") == wanted | {
        "a.json": b"[]",
        "more.txt": b"",
    }
    assert call("sync", results, store) == 0
    assert capsys.readouterr().out == f"0 files copied to {store}, 3 were current\n"


def test_another_store_than_files(results: Path):
    sync(str(results), "memory://bucket/mini")
    store = fsspec.filesystem("memory")
    assert store.cat("/bucket/mini/images/prompt_0/img_1.png") == b"two" and len(store.find("/bucket")) == 4
    assert sync(str(results), "memory://bucket/mini") == (0, 3)


def test_a_copy_that_breaks_off_leaves_no_half_file(results: Path, tmp_path: Path, monkeypatch):
    def broken(read, write):
        write.write(b"ha")
        raise OSError("connection lost")

    monkeypatch.setattr("fairnb.experiments.sync.shutil.copyfileobj", broken)
    with pytest.raises(UserError, match="cannot be copied to .* .connection lost"):
        sync(str(results), str(tmp_path / "store"))
    assert not files(tmp_path / "store")


@pytest.mark.parametrize(
    ("source", "says"), [("none", "no folder at none"), ("nowhere://a", "Protocol not known: nowhere")]
)
def test_a_place_that_is_none_is_named(tmp_path: Path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        sync(source, str(tmp_path / "store"))
