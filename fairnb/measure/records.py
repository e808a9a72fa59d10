"""Records: one row per image, as a table with fixed columns and as a Parquet file."""

from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.prompts.attributes import ATTRIBUTES, Attribute

BOX = ["box_x0", "box_y0", "box_x1", "box_y1"]
COLUMNS = [
    *["prompt_id", "prompt", "occupation", "split", "image", "seed", "path"],
    *["face", "face_probability", *BOX],
]


def attributes_of(records: pd.DataFrame) -> list[Attribute]:
    """The attributes that a records table has columns for."""
    return [attribute for name, attribute in ATTRIBUTES.items() if name in records]


def check_records(records: pd.DataFrame, source: str = "records") -> pd.DataFrame:
    """Return the table if its columns and types are those of `judge_images`; else raise `UserError`."""
    wanted = list(COLUMNS)
    for attribute in attributes_of(records):
        wanted += [f"{attribute.name}_{name}" for name in attribute.classes]
    if missing := [name for name in wanted if name not in records]:
        raise UserError(f"{source}: column '{missing[0]}' is missing, make the records with fairnb measure")
    kinds = {"prompt_id": is_integer_dtype, "image": is_integer_dtype, "seed": is_integer_dtype, "face": is_bool_dtype}
    kinds |= dict.fromkeys(["face_probability", *BOX], is_numeric_dtype)
    for name, right in kinds.items():
        if not right(records[name]):
            raise UserError(f"{source}: column '{name}' has the wrong type {records[name].dtype}")
    for attribute in attributes_of(records):
        seen = set(records.loc[records.face, attribute.name])
        if unknown := seen - set(attribute.classes):
            raise UserError(f"{source}: column '{attribute.name}' holds {min(map(str, unknown))!r}, which is no class")
    return records


def write_records(records: pd.DataFrame, path: str | Path) -> Path:
    """Write one row per image as Parquet."""
    check_records(records)
    return write_atomically(path, lambda temporary: records.to_parquet(temporary, index=False))


def read_records(path: str | Path) -> pd.DataFrame:
    """Read what `write_records` wrote; `UserError` if the file is missing, damaged or holds another table."""
    try:
        records = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a different type for each broken file
        reason = str(error).splitlines()[0]
        raise UserError(f"records {path} cannot be read ({reason}): run the notebook that makes it again") from error
    return check_records(records, f"records {path}")
