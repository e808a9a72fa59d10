"""Records in the files people have: fairnb's own Parquet and CSV, and FFD's `test_results.pkl`."""

from pathlib import Path

import pandas as pd

from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.measure.ffd_results import read_ffd_records, write_test_results
from fairnb.measure.records import attributes_of, check_records, read_records, write_records
from fairnb.prompts.attributes import AGE, GENDER, RACE

SUFFIXES = (".parquet", ".csv", ".pkl")
FFD = [attribute.name for attribute in (GENDER, RACE, AGE)]  # what its file can hold
PARQUET, PICKLE = b"PAR1", b"\x80"  # how these files begin


def load_records(path: str | Path) -> pd.DataFrame:
    """Read records of any form, told apart by their content; of a folder, its records.parquet.

    `UserError` if the file is missing, damaged or holds another table.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "records.parquet").is_file():
            raise UserError(f"{path} holds no records.parquet: give a file of records, or measure its images first")
        path = path / "records.parquet"
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise UserError(f"records {path} cannot be read ({error.strerror}): make them with fairnb measure") from error
    if begins == PARQUET:
        return read_records(path)
    return read_ffd_records(path) if begins.startswith(PICKLE) else _read_csv(path)


def save_records(records: pd.DataFrame, path: str | Path) -> Path:
    """Write records in the form of the suffix: .parquet, .csv, or .pkl for FFD's, without what `left_out` names.

    `UserError` for another suffix, and if FFD's form would hold no attribute at all.
    """
    suffix = check_suffix(path)
    if suffix == ".parquet":
        return write_records(records, path)
    if suffix == ".pkl":
        if not any(name in records for name in FFD):
            raise UserError(f"{path}: FFD's form holds {', '.join(FFD)}, none of which was measured: name a .csv file")
        return write_test_results(records, path)
    check_records(records)
    return write_atomically(path, lambda temporary: records.to_csv(temporary, index=False))


def check_suffix(path: str | Path) -> str:
    """Return the suffix of a file of records, in lower case; `UserError` for a form that there is not."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: name a file that ends in {', '.join(SUFFIXES)} (.pkl as FFD)")
    if (suffix := Path(path).suffix.lower()) not in SUFFIXES:
        raise UserError(f"{path} has no form of records: name a file that ends in {', '.join(SUFFIXES)} (.pkl as FFD)")
    return suffix


def left_out(records: pd.DataFrame, path: str | Path) -> list[str]:
    """The measured attributes that the form of a file cannot hold: FFD's has gender, race and age only."""
    names = [attribute.name for attribute in attributes_of(records)]
    return [name for name in names if name not in FFD] if check_suffix(path) == ".pkl" else []


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)  # spreadsheets of some countries write semicolons
        # Only an empty cell is missing: a prompt may well be "None" or "NA".
        how = {"keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
        records = pd.read_csv(path, sep=separator, **how)
    except (OSError, ValueError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        reason = (str(error).splitlines() or ["empty"])[0]
        raise UserError(f"records {path} cannot be read as CSV ({reason}): make them with fairnb measure") from error
    return check_records(records, f"records {path}")
