"""Safetensors of equal contents are equal files."""

import itertools
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fairnb.tensors import write_tensors


def test_equal_contents_make_equal_bytes_and_are_read_by_the_library(tmp_path: Path):
    tensors = {
        "b.weight": torch.arange(6.0).view(2, 3),
        "a": torch.arange(3, dtype=torch.int16),
        "none": torch.empty(0),
    }
    about = {"record": '{"é": "\\n\\t\\u0001\\"\\\\"}', "line": "a\n\r\t\b\f\x01\x7f\u2028😀", "empty": ""}
    made = set()
    for number, order in enumerate(itertools.permutations(about)):
        path = write_tensors(tensors, tmp_path / f"{number}.safetensors", {key: about[key] for key in order})
        made.add(path.read_bytes())
    assert len(made) == 1
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    with safe_open(path, "pt") as file:
        assert file.metadata() == about
