"""Whatever a file holds: a right result or one clear sentence, never another error, never a changed file."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from fairnb.adapters.load import load_adapter
from fairnb.adapters.model_cards import describe
from fairnb.adapters.neuron_sets import load_neurons
from fairnb.cli.options import parse_attributes, parse_shares
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.errors import UserError
from fairnb.files import root
from fairnb.measure.ffd_results import read_ffd_records, read_test_results
from fairnb.measure.folders import picture_rows
from fairnb.measure.images import load_image
from fairnb.measure.metrics import bias_by_prompt
from fairnb.measure.record_files import load_records
from fairnb.measure.records import read_records
from fairnb.profiles import Profile, load_profile, valid_keys
from fairnb.prompts.attributes import ATTRIBUTES, GENDER
from fairnb.prompts.files import read_prompts
from fairnb.prompts.sets import load_prompt_set
from tests.conftest import MINI

often = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SUFFIXES = ["json", "jsonl", "txt", "csv", "tsv", "JSON", "TXT", "md", "parquet", "xlsx"]
words = st.text(min_size=1, max_size=8) | st.sampled_from(["doctor", "a photo of a nurse", "Ärztin", "😀"])
MINI_PROFILE = yaml.safe_load((root() / "notebooks" / "profiles" / "mini.yaml").read_text())["profile"]
PATCH = (MINI / "patches" / "gender.safetensors").read_bytes()


def right_or_said(call, path: Path | None = None):
    """The result of `call`, or None where it said in one sentence what is wrong; a file read is the same after it."""
    before = path.read_bytes() if path else None
    try:
        return call()
    except UserError as error:
        assert str(error) and "\n" not in str(error)
    finally:
        assert path is None or path.read_bytes() == before
    return None


def harmless_or_said(path: Path, pipe) -> None:
    """Load an adapter's file onto the model: refused in one sentence, or applied and removed without a trace."""
    before = fingerprint(pipe.unet)
    adapter = right_or_said(lambda: load_adapter(path, pipe), path)
    if adapter:
        adapter.apply(pipe, 1.0)
        adapter.apply(pipe, 0.0)
    assert fingerprint(pipe.unet) == before


@often
@given(st.dictionaries(st.sampled_from(valid_keys()) | st.text(max_size=10), anything, max_size=3))
def test_profiles(changes):
    profile = right_or_said(lambda: load_profile("mini", changes))
    assert profile is None or isinstance(profile, Profile)


@often
@given(anything | st.fixed_dictionaries({"profile": anything}) | st.just({"profile": MINI_PROFILE}))
def test_profile_files(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    right_or_said(lambda: load_profile(path), path)


@often
@given(
    anything | st.lists(words, max_size=5) | st.dictionaries(words, st.lists(words, max_size=4), max_size=3),
    st.sampled_from(SUFFIXES),
    st.sampled_from(["json", "lines", "table"]),
)
def test_prompt_files(tmp_path, content, suffix, form):
    path = tmp_path / f"p.{suffix}"
    text = json.dumps(content) if form == "json" else str(content).replace(",", "\n")
    path.write_text("prompt\n" + text if form == "table" else text, encoding="utf-8", errors="replace")
    for name in ("", ":doctor"):
        table = right_or_said(lambda name=name: read_prompts(f"{path}{name}"), path)
        assert table is None or (len(table) and table.prompt.map(lambda prompt: bool(prompt.strip())).all())
    right_or_said(lambda: load_prompt_set(path), path)


def table_text(rows, header=("prompt", "occupation"), **form):
    return pd.DataFrame(rows, columns=header).to_csv(index=False, **form)


def objects(rows):
    return [{"Prompt": prompt, "occupation": occupation} for prompt, occupation in rows]


PROMPTS_ONLY = {  # the forms that know no occupation
    "p.txt": lambda rows: "\n".join(prompt for prompt, _ in rows),
    "one.csv": lambda rows: table_text([prompt for prompt, _ in rows], ["PROMPT"]),
    "job.csv": lambda rows: table_text([prompt for prompt, _ in rows], ["Occupation"]),
    "text.tsv": lambda rows: table_text([(prompt, 1) for prompt, _ in rows], ["text", "id"], sep="\t"),
    "p.json": lambda rows: json.dumps([prompt for prompt, _ in rows]),
    "list.txt": lambda rows: json.dumps([prompt for prompt, _ in rows], indent=1),
    "p.jsonl": lambda rows: "\n".join(json.dumps({"caption": prompt}) for prompt, _ in rows),
    "strings.ndjson": lambda rows: "\n".join(json.dumps(prompt, ensure_ascii=False) for prompt, _ in rows),
    "lists.json": lambda rows: json.dumps({"a": [prompt for prompt, _ in rows[:2]], "b": [p for p, _ in rows[2:]]}),
}
WITH_OCCUPATION = {
    "p.csv": table_text,
    "p.CSV": lambda rows: table_text(rows, [" Prompt ", "OCCUPATION"], sep=";", lineterminator="\r\n"),
    "p.tsv": lambda rows: table_text(rows, sep="\t"),
    "bars.txt": lambda rows: table_text(rows, sep="|", lineterminator="\r\n"),
    "o.json": lambda rows: json.dumps(objects(rows)),
    "o.JSON": lambda rows: json.dumps({"data": objects(rows)}, ensure_ascii=False),
    "o.jsonl": lambda rows: "\n".join(map(json.dumps, objects(rows))),
}
odd = ["cook", "Cook", "a cook", "A photo of the cook", "crane and tower operator", "an usher", "$x$", "Tra$$", "# x"]
odd += ['the "old" cook', "cook; old", "cook | old", "a tab\tinside", "in two\nlines", "Ärztin", "医師", "😀", "{job}"]
prompts = st.sampled_from(odd) | st.text(min_size=1, max_size=12).filter(lambda text: text.strip("\ufeff ").strip())
prompts = prompts.map(lambda text: text.replace("\r", "\n"))  # pandas writes a lone \r without quotes


@settings(often, max_examples=300)
@given(
    st.lists(st.tuples(prompts, st.sampled_from([None, "cook", "Koch"])), min_size=1, max_size=5),
    st.sampled_from([*PROMPTS_ONLY, *WITH_OCCUPATION]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_the_same_prompts_in_every_form(tmp_path, rows, form, encoding):
    """What a file gives depends on what it says, not on how it says it."""
    if form in PROMPTS_ONLY:
        rows = [(prompt, None) for prompt, _ in rows]
    plain, path = tmp_path / "plain.json", tmp_path / form
    plain.write_text(json.dumps([{"prompt": prompt, "occupation": occupation} for prompt, occupation in rows]))
    path.write_bytes({**PROMPTS_ONLY, **WITH_OCCUPATION}[form](rows).encode(encoding))
    expected, table = right_or_said(lambda: read_prompts(plain), plain), right_or_said(lambda: read_prompts(path), path)
    if form == "p.txt" and (table is None or any("\n" in prompt for prompt, _ in rows)):
        return  # a line is a prompt there, and some lines are refused
    assert (table is None) == (expected is None)
    if table is not None:
        pd.testing.assert_frame_equal(table, expected)
        said = [len([note for note in each.attrs["notes"] if "entries" in note]) for each in (table, expected)]
        assert said[0] == said[1]


@often
@given(
    st.sampled_from(sorted(WITH_OCCUPATION)),
    st.integers(0, 120),
    st.binary(max_size=6) | st.sampled_from([b'"', b"\n", b"[", b"{", b"\xff", b"\0", b","]),
    st.booleans(),
)
def test_damaged_prompt_files(tmp_path, form, place, piece, cut):
    rows = [("a photo of a cook", "cook"), ("judge", None), ("a photo of a pilot, smiling", "pilot")]
    content, path = WITH_OCCUPATION[form](rows).encode(), tmp_path / form
    path.write_bytes(content[:place] + piece + (b"" if cut else content[place + len(piece) :]))
    table = right_or_said(lambda: read_prompts(path), path)
    assert table is None or 1 <= len(table) <= 5


@often
@given(st.binary(max_size=200), st.sampled_from([*SUFFIXES, "pkl", "safetensors"]))
def test_bytes(tmp_path, content, suffix):
    path = tmp_path / f"b.{suffix}"
    path.write_bytes(content)
    readers = (read_prompts, load_prompt_set, read_records, load_records, read_test_results, describe, load_neurons)
    for read in readers:
        right_or_said(lambda read=read: read(path), path)


@often
@given(st.integers(0, len(PATCH) - 1), st.binary(max_size=16), st.booleans())
def test_damaged_patches(tmp_path, mini_base, place, piece, cut):
    path = tmp_path / "patch.safetensors"
    path.write_bytes(PATCH[:place] + piece + (b"" if cut else PATCH[place + len(piece) :]))
    right_or_said(lambda: describe(path), path)
    harmless_or_said(path, mini_base)


@often
@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4), anything)
def test_foreign_patches(tmp_path, mini_base, header, record):
    path = tmp_path / "patch.safetensors"
    known = {"kind": "fairnb bias neurons 1", "record": json.dumps(record)}
    tensors = {"a.values": np.zeros(2, np.float32), "a.indices": np.zeros(2, np.int32)}
    save_file(tensors, path, metadata={"base": "x", **known, **header})
    right_or_said(lambda: describe(path), path)
    harmless_or_said(path, mini_base)


@often
@given(
    st.lists(st.tuples(st.sampled_from(["male", "female", None, "x"]), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["gender", "face", "prompt_id", "gender_male", "none"]),
    st.sampled_from(["drop", "text", "keep"]),
)
def test_records(tmp_path, rows, column, change):
    path = tmp_path / "records.parquet"
    table = pd.DataFrame(
        {
            **{"prompt_id": 0, "prompt": "p", "occupation": "o", "split": "test", "image": range(len(rows)), "seed": 0},
            **{"path": "x.png", "face": [face for _, face in rows], "face_probability": 1.0},
            **dict.fromkeys(["box_x0", "box_y0", "box_x1", "box_y1"], 0.0),
            **{"gender": [name for name, _ in rows], "gender_female": 0.5, "gender_male": 0.5},
        }
    )
    if column in table and change != "keep":
        table = table.drop(columns=column) if change == "drop" else table.assign(**{column: "text"})
    table.to_parquet(path)
    records = right_or_said(lambda: read_records(path), path)
    if records is not None and "gender" in records:
        biases = bias_by_prompt(records, "gender").bias.dropna()
        assert ((biases >= 0) & (biases <= 1)).all()


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).convert("P" if kind == "GIF" else "RGB").save(stream, kind)
    return stream.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}


@often
@given(st.sampled_from(list(PICTURES)), st.integers(0, 2**32), st.binary(max_size=4), st.booleans())
def test_damaged_pictures(tmp_path, kind, place, piece, cut):
    whole, path = PICTURES[kind], tmp_path / "a.jpg"
    place %= len(whole)
    path.write_bytes(whole[:place] + piece + (b"" if cut else whole[place + len(piece) :]))
    image = right_or_said(lambda: load_image(path), path)
    assert image is None or (image.shape[0] == 3 and image.min() >= -1 and image.max() <= 1)
    rows = right_or_said(lambda: picture_rows(tmp_path), path)
    assert rows is None or [row["path"] for row in rows[0]] == ["a.jpg"]


tensors = st.builds(
    lambda shape, kind: torch.zeros(shape).to(kind),
    st.lists(st.sampled_from([0, 1, 2, 4]), max_size=3),
    st.sampled_from([torch.bool, torch.float16, torch.float32, torch.int64, torch.complex64]),
)
parts = st.tuples(
    *(
        st.just({0: right}) | st.just({}) | tensors.map(lambda tensor: {0: tensor}) | st.dictionaries(scalars, scalars)
        for right in (torch.ones(2).bool(), *(torch.zeros(2, classes) for classes in (4, 2, 4, 2)))
    )
)


@often
@given(parts)
def test_ffd_results(tmp_path, parts):
    path = tmp_path / "r.pkl"
    path.write_bytes(pickle.dumps(parts))
    records = right_or_said(lambda: read_ffd_records(path), path)
    assert records is None or records.image.isin([0, 1]).all()


@often
@given(
    st.lists(st.sampled_from(["prompt_id", "prompt", "face", "gender", "gender_male", "image", "path"]), max_size=3),
    st.sampled_from(["", "x", "1", "-1", "NaN", "TRUE", "male", ";", '"', "\n", "\x00", "ä"]) | st.text(max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_records_as_csv(tmp_path, columns, value, separator):
    path = tmp_path / "records.csv"
    table = pd.DataFrame(
        {
            **{"prompt_id": [0, 0, 1], "prompt": ["a", "a", "b"], "occupation": None, "split": "test"},
            **{"image": [0, 1, 0], "seed": 0, "path": "x.png", "face": [True, False, True], "face_probability": 1.0},
            **dict.fromkeys(["box_x0", "box_y0", "box_x1", "box_y1"], 0.0),
            **{"gender": ["male", None, "female"], "gender_female": 0.5, "gender_male": 0.5},
        }
    )
    for column in columns:
        table[column] = table[column].astype(object)
        table.loc[1, column] = value
    path.write_text(table.to_csv(index=False, sep=separator), encoding="utf-8", errors="replace")
    records = right_or_said(lambda: load_records(path), path)
    if records is not None:
        biases = bias_by_prompt(records, "gender").bias.dropna()
        assert ((biases >= 0) & (biases <= 1)).all()
        assert set(columns) <= {"prompt", "path"} or len(records) == 3


@often
@given(st.text(max_size=12) | st.lists(st.floats() | st.integers(-1, 2), max_size=3).map(str), st.booleans())
def test_shares_and_attributes(text, listed):
    text = text.strip("[]") if listed else text
    shares = right_or_said(lambda: parse_shares(text, GENDER))
    assert shares is None or (len(shares) == 2 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6)
    names = right_or_said(lambda: parse_attributes(text, ["gender"]))
    assert names is None or set(names) <= set(ATTRIBUTES)


@pytest.fixture(autouse=True)
def no_files_left(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
