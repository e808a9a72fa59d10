"""Shards: jobs that divide a work and wait for no other end, joined, with the bytes of a single job."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

from fairnb.errors import UserError
from fairnb.files import LOCK, write_json
from fairnb.measure.generate import generate
from fairnb.shards import Shard, find_parts, interleave, load_tensors, read_shard, save_tensors
from tests.cli.test_models import SMALL, call
from tests.conftest import MINI
from tests.measure.test_generate import ROWS, SETTINGS, files


def test_a_shard_is_read_and_divides_the_work_without_rest():
    assert read_shard(None) is None and read_shard("2/3") == Shard(2, 3)
    work = list(range(7))
    parts = [Shard(number, 3).of(work) for number in (1, 2, 3)]
    assert sorted(sum(parts, [])) == work and parts[1] == [1, 4]
    assert interleave([torch.tensor(part) for part in parts]).tolist() == work
    for text in ("0/3", "4/3", "1", "1/3/5", "-1/3", "1/x", "1 / 3", "²/3"):
        with pytest.raises(UserError, match="is no part of a whole: write 1/8"):
            read_shard(text)
    with pytest.raises(UserError, match="--shard 1/8: the work has 7 pieces"):
        Shard(1, 8).of(work)


def test_parts_are_found_and_a_missing_or_foreign_one_is_named(tmp_path: Path):
    whole = tmp_path / "n.safetensors"
    assert find_parts(whole) == []
    for number in (1, 3):
        save_tensors({"a": torch.tensor([number])}, Shard(number, 3).part(whole), {"seed": 1})
    (tmp_path / "other.part-2-of-3.safetensors").touch()
    with pytest.raises(UserError, match="lacks the part of shard 2/3: run it with --shard 2/3"):
        find_parts(whole)
    save_tensors({"a": torch.tensor([2])}, Shard(2, 3).part(whole), {"seed": 2})
    parts = find_parts(whole)
    assert [load_tensors(part, {"seed": 1})["a"].item() for part in parts[::2]] == [1, 3]
    with pytest.raises(UserError, match="part-2-of-3.* belongs to another run .its seed was 2 and is 1 now"):
        load_tensors(parts[1], {"seed": 1})
    parts[1].write_bytes(parts[1].read_bytes()[:-3])
    with pytest.raises(UserError, match="part-2-of-3.* cannot be read .* delete it and run its shard again"):
        load_tensors(parts[1], {"seed": 1})
    save_tensors({"a": torch.tensor([0])}, Shard(1, 2).part(whole), {"seed": 1})
    with pytest.raises(UserError, match="has parts of 2 and of 3 shards"):
        find_parts(whole)


def _draw(build, folder: Path, shard: Shard, start) -> None:
    start.wait()
    torch.set_num_threads(1)
    generate(build, ROWS, folder=folder, shard=shard, **SETTINGS)


def test_shards_that_draw_at_once_make_the_images_of_one_job(tiny_pipe, tmp_path: Path):
    pipe = tiny_pipe()
    generate(pipe, ROWS, folder=tmp_path / "one", **SETTINGS)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    jobs = [
        context.Process(target=_draw, args=(pipe, tmp_path / "several", Shard(number, 3), start))
        for number in (1, 2, 3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    drawn = {name: data for name, data in files(tmp_path / "several").items() if not name.startswith(LOCK)}
    assert drawn == files(tmp_path / "one")


def test_a_shard_leaves_the_others_alone_and_the_end_is_the_whole(tiny_pipe, tmp_path: Path):
    pipe, folder = tiny_pipe(), tmp_path / "a"
    generate(pipe, ROWS, folder=folder, shard=Shard(2, 4), **SETTINGS)
    images = [name for name in files(folder) if name.endswith(".png")]
    assert images == ["prompt_3/img_2.png"]  # the second of four batches of two, of three images a prompt
    half = folder / "prompt_3" / ".img_0.0a1b2c3d.part.png"  # another shard is about to rename it
    half.write_bytes(b"half")
    generate(pipe, ROWS, folder=folder, shard=Shard(1, 4), **SETTINGS)
    assert half.is_file()
    with pytest.raises(UserError, match="belongs to another run .its seed was 1 and is 2 now"):
        generate(pipe, ROWS, folder=folder, shard=Shard(1, 4), **SETTINGS | {"seed": 2})
    generate(pipe, ROWS, folder=folder, **SETTINGS)
    generate(pipe, ROWS, folder=tmp_path / "one", **SETTINGS)
    assert files(folder) == files(tmp_path / "one")


def test_the_joining_run_is_refused_while_a_shard_is_at_work(tiny_pipe, tmp_path: Path, monkeypatch):
    pipe, folder = tiny_pipe(), tmp_path / "a"

    def meanwhile(*_):
        for shard in (None, Shard(1, 2)):
            with pytest.raises(UserError, match="is in use by another run"):
                generate(pipe, ROWS, folder=folder, shard=shard, **SETTINGS)

    monkeypatch.setattr("fairnb.measure.generate._draw", meanwhile)
    generate(pipe, ROWS, folder=folder, shard=Shard(1, 2), **SETTINGS)
    monkeypatch.undo()
    generate(pipe, ROWS, folder=folder, **SETTINGS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A profile with the smallest counts."""
    folder = tmp_path_factory.mktemp("profile")
    words = {
        "occupations": {"train": ["doctor", "nurse", "teacher"], "validation": ["chef"], "test": ["pilot"]},
        "contents": ["a tree", "a house"],
        "contexts": ["at night", "by the sea"],
    }
    write_json(folder / "words.json", words)
    return [*SMALL, "--set", f"prompts={folder / 'words.json'}", "--set", "locate.frequency=0.4"]


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["find", MINI, "--attribute", "gender,age"], "neurons.safetensors"),
        (["find", MINI], "index.txt"),
        (["guide", MINI, "--images", 8], "guide.safetensors"),
    ],
)
def test_what_shards_have_found_is_what_one_job_finds(small, tmp_path: Path, capsys, words, name):
    one, several = tmp_path / "one" / name, tmp_path / "several" / name
    assert call(*words, "--out", one, *small) == 0
    for number in (3, 1):
        assert call(*words, "--out", several, "--shard", f"{number}/3", *small) == 0
    part = Shard(1, 3).part(several.with_suffix(".safetensors"))
    made = part.stat().st_mtime_ns
    assert call(*words, "--out", several, *small) == 2  # the second has not been run
    assert "lacks the part of shard 2/3" in capsys.readouterr().err and not several.exists()
    assert call(*words, "--out", several, "--shard", "1/3", *small) == 0 and part.stat().st_mtime_ns == made
    assert call(*words, "--out", several, "--shard", "2/3", *small) == 0
    assert call(*words, "--out", several, *small, "--set", "seed=5") == 2
    assert "belongs to another run (its seed was 0 and is 5 now)" in capsys.readouterr().err
    assert call(*words, "--out", several, *small) == 0
    assert same(one, several) and list(several.parent.iterdir()) == [several]
    assert call(*words, "--out", several, "--shard", "1/9", *small) == 2
    assert "--shard 1/9: the work has 3 pieces" in capsys.readouterr().err


def test_what_shards_have_judged_is_what_one_job_judges(small, tmp_path: Path, capsys, monkeypatch):
    drawn = tmp_path / "drawn"
    assert call("generate", "a photo of a doctor", "a photo of a nurse", "--images", 3, "--out", drawn, *small) == 0
    monkeypatch.setattr("fairnb.measure.judge.BATCH", 2)
    one, several = tmp_path / "one.parquet", tmp_path / "several.parquet"
    assert call("measure", drawn, "--out", one, *small) == 0
    told = capsys.readouterr().out.splitlines()
    assert call("measure", drawn, "--shard", "1/2", *small) == 2
    assert "give a folder of images, and --out" in capsys.readouterr().err
    for number in (2, 1):
        assert call("measure", drawn, "--out", several, "--shard", f"{number}/2", *small) == 0
    capsys.readouterr()
    assert call("measure", drawn, "--out", several, *small) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == told[told.index("gender") : -1]
    assert same(one, several) and not list(tmp_path.glob("*.part-*"))
    assert call("measure", drawn, "--out", several, "--shard", "1/2", *small) == 0
    shutil.copy(Shard(1, 2).part(several), Shard(2, 2).part(several))
    picture = drawn / "prompt_0" / "img_0.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert call("measure", drawn, "--out", several, *small) == 2
    assert "belongs to another run (it differs in its images)" in capsys.readouterr().err
