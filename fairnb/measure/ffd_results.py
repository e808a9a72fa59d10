"""FFD's `test_results.pkl` (Shen et al., ICLR 2024), written and read safely."""

import io
import pickle
from pathlib import Path

import pandas as pd
import torch

from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.measure.records import BOX
from fairnb.prompts.attributes import AGE, GENDER, RACE


def write_test_results(records: pd.DataFrame, path: str | Path) -> Path:
    """Write FFD's `test_results.pkl`: (face_indicators, face_bboxs, gender_logits, race_logits, age_logits), each a
    dict prompt index -> tensor over images (bool [N], float [N, 4], float [N, K]).

    Logits are log-probabilities; without a face boxes and logits are -1, as FFD has it. An attribute that was not
    measured gets an empty dict: a made-up number would be read as a share.
    """
    found, boxes = {}, {}
    logits = {GENDER: {}, RACE: {}, AGE: {}}
    for prompt_id, rows in records.sort_values(["prompt_id", "seed", "image"]).groupby("prompt_id"):
        face = torch.tensor(rows.face.to_numpy(bool))
        found[int(prompt_id)] = face
        boxes[int(prompt_id)] = _filled(rows[BOX], face)
        for attribute, table in logits.items():
            if attribute.name in records:
                columns = rows[[f"{attribute.name}_{name}" for name in attribute.classes]]
                table[int(prompt_id)] = _filled(columns, face, log=True)
    content = pickle.dumps((found, boxes, *logits.values()))
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _filled(columns: pd.DataFrame, face: torch.Tensor, log: bool = False) -> torch.Tensor:
    values = torch.tensor(columns.to_numpy(float), dtype=torch.float32)
    values = values.clamp_min(1e-12).log() if log else values
    values[~face] = -1
    return values


def read_test_results(path: str | Path) -> tuple[dict[int, torch.Tensor], ...]:
    """Read FFD's `test_results.pkl` without running what is in it: tensors, dicts and plain values only."""
    try:
        content = _TensorsOnly(io.BytesIO(Path(path).read_bytes())).load()
    except Exception as error:  # a damaged pickle raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as FFD's test_results.pkl: {reason}") from error
    parts = tuple(content) if isinstance(content, (tuple, list)) else ()
    if len(parts) != 5 or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path} is not FFD's test_results.pkl: it must hold five dicts")
    return parts


class _TensorsOnly(pickle.Unpickler):
    """An unpickler that knows the two functions of which a pickled CPU or GPU tensor is made, and nothing else."""

    def find_class(self, module: str, name: str):
        allowed = {
            # torch's own would unpickle the bytes inside without looking
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not a tensor, dict or number")
        return allowed[module, name]


def _load_storage(content: bytes):
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
