"""Whatever a file holds: a right result or one clear sentence, never another error, never a changed file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fairnb.adapters.load import load_adapter
from fairnb.adapters.model_cards import describe
from fairnb.adapters.neuron_sets import load_neurons
from fairnb.cli.options import parse_attributes, parse_shares
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.errors import UserError
from fairnb.files import root
from fairnb.measure.ffd_results import read_test_results
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
    st.sampled_from(["json", "txt", "csv"]),
)
def test_prompt_files(tmp_path, content, suffix):
    path = tmp_path / f"p.{suffix}"
    text = json.dumps(content) if suffix == "json" else str(content).replace(",", "\n")
    path.write_text("prompt\n" + text if suffix == "csv" else text, encoding="utf-8", errors="replace")
    table = right_or_said(lambda: read_prompts(path), path)
    assert table is None or (len(table) and table.prompt.map(lambda prompt: bool(prompt.strip())).all())
    right_or_said(lambda: load_prompt_set(path), path)


@often
@given(st.binary(max_size=200), st.sampled_from(["json", "txt", "csv", "parquet", "pkl", "safetensors"]))
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
