"""FFD's `test_results.pkl` (Shen et al., ICLR 2024), written and read safely."""

import io
import pickle
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.measure.records import BOX, check_records
from fairnb.prompts.attributes import AGE, GENDER, RACE, Attribute


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


def read_ffd_records(path: str | Path) -> pd.DataFrame:
    """Read FFD's `test_results.pkl` as records (`records.COLUMNS`), a row per image: the way back from
    `write_test_results` for what the format holds.

    It holds no prompts, seeds and face probabilities: a prompt is called "prompt 3", `path` is where
    FFD's gen-images.py puts the image, the seed is 0 and the probability of a face NaN. The class is that of the
    largest logit, as FFD counts. `UserError` for parts that do not fit together, and for NaN in place of a number.
    """
    found, boxes, *logits = read_test_results(path)
    measured = {about: part for about, part in zip((GENDER, RACE, AGE), logits, strict=True) if part}
    parts = {"face_indicators": found, "face_bboxs": boxes}
    parts |= {f"{about.name}_logits": part for about, part in measured.items()}
    for name, part in parts.items():
        if set(part) != set(found):
            raise UserError(f"{path}: {name} and face_indicators are of different prompts: make the file again")
    if not all(type(number) is int for number in found):
        raise UserError(f"{path}: its dicts do not lead from prompt numbers to tensors, as FFD's do: make it again")
    rows = [_rows_of(path, number, parts, list(measured)) for number in sorted(found)]
    if not measured or not sum(map(len, rows)):
        raise UserError(f"{path} holds no images with logits: give FFD's results of a whole test")
    return check_records(pd.concat([each for each in rows if len(each)], ignore_index=True), str(path))


def _rows_of(path: str | Path, number: int, parts: dict[str, dict], measured: list[Attribute]) -> pd.DataFrame:
    """The records of one prompt."""

    def values(name: str, *shape: int) -> torch.Tensor:
        tensor = parts[name][number]
        if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.shape != shape:
            wanted = f"prompt {number} has {shape[0]} images, so they must be a tensor of shape {shape}"
            held = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise UserError(f"{path}: {name} are {held}, but {wanted}")
        tensor = tensor.detach().clone().float()
        if len(shape) > 1:
            tensor[~face] = nan  # FFD's -1, and the classes it gives to images without a face
        if not tensor[face].isfinite().all():
            raise UserError(f"{path}: {name} of prompt {number} hold NaN or infinity: make the file again")
        return tensor

    indicators = parts["face_indicators"][number]
    if not isinstance(indicators, torch.Tensor) or indicators.ndim != 1 or indicators.dtype != torch.bool:
        raise UserError(f"{path}: face_indicators of prompt {number} are no tensor of true and false: make it again")
    face, count = indicators, len(indicators)
    paths = [f"prompt_{number}/img_{image}.jpg" for image in range(count)]
    rows = pd.DataFrame({"prompt_id": number, "prompt": f"prompt {number}", "occupation": None, "split": "test"}
                        | {"image": range(count), "seed": 0, "path": paths, "face": face.numpy()})  # fmt: skip
    rows["face_probability"] = np.where(rows.face, nan, 0.0)
    rows[BOX] = values("face_bboxs", count, 4).numpy()
    for about in measured:
        shares = values(f"{about.name}_logits", count, len(about.classes)).softmax(1)
        best = shares.argmax(1).tolist()
        seen = [about.classes[one] if there else None for one, there in zip(best, face.tolist(), strict=True)]
        rows[about.name] = pd.Series(seen, dtype=object)
        rows[[f"{about.name}_{name}" for name in about.classes]] = shares.numpy()
    return rows


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
