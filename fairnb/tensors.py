"""Write safetensors whose bytes depend on nothing but their contents."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from fairnb.files import write_atomically


def write_tensors(tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write tensors with metadata, atomically.

    The library writes the metadata in an order that changes from run to run; here it is sorted, so that equal runs end
    with equal bytes.
    """

    def write(temporary: Path) -> None:
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        with temporary.open("r+b") as file:  # 8 bytes: the length of the header; JSON, which may end with blanks
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            file.seek(8)
            file.write(text.ljust(length))

    return write_atomically(path, write)
