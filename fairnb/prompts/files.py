"""Read prompts from text, CSV and JSON files, including those of published code."""

import csv
import io
import json
from pathlib import Path

import pandas as pd

from fairnb.errors import UserError
from fairnb.prompts.sets import SPLITS, load_prompt_set, prompt_rows
from fairnb.prompts.templates import photo_of


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Read prompts from a file; returns the same columns as `prompt_rows`.

    The file is one of: text with one prompt per line; CSV with a column `prompt` (and optionally `occupation`); a JSON
    list of prompts; a JSON prompt set of fairnb; a JSON dict of lists of occupations (Bias Neurons' occupation.json),
    which become "a photo of a ..."; one of FFD's JSON files, of which `test_prompts`, or else the test templates and
    occupations, are used. `UserError` names the file and the mistake.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt file {path} cannot be read ({error}): give a .txt, .csv or .json file") from error
    if path.suffix == ".csv":
        rows = _prompts_of_csv(text, path)
    elif path.suffix == ".json":
        rows = _prompts_of_json(text, path)
    else:
        rows = [(line.strip(), None, "test") for line in text.splitlines() if line.strip()]
    if not rows:
        raise UserError(f"prompt file {path} holds no prompt: write one per line")
    for prompt, _, _ in rows:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"prompt file {path} holds {prompt!r}, which is not a prompt: remove it")
    seen = [prompt for prompt, _, _ in rows]
    if twice := [prompt for number, prompt in enumerate(seen) if prompt in seen[:number]]:
        raise UserError(f"prompt file {path} holds '{twice[0]}' twice: remove one")
    return pd.DataFrame(
        [(number, *row) for number, row in enumerate(rows)], columns=["prompt_id", "prompt", "occupation", "split"]
    )


def _prompts_of_csv(text: str, path: Path) -> list[tuple]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"prompt file {path} is not a CSV table: {error}") from error
    if "prompt" not in (reader.fieldnames or ()):
        raise UserError(f"prompt file {path} has no column 'prompt': give the column of prompts this name")
    if wide := [number for number, row in enumerate(rows, 2) if None in row]:
        raise UserError(
            f"prompt file {path} has more fields than columns in row {wide[0]}: put such a prompt in quotes"
        )
    return [(row["prompt"], row.get("occupation") or None, "test") for row in rows]


def _prompts_of_json(text: str, path: Path) -> list[tuple]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"prompt file {path} is not JSON: {error}") from error
    if isinstance(content, list):
        return [(prompt, None, "test") for prompt in content]
    if isinstance(content, dict) and "occupations" in content and isinstance(content["occupations"], dict):
        return list(prompt_rows(load_prompt_set(path), *SPLITS).drop(columns="prompt_id").itertuples(index=False))
    if not isinstance(content, dict) or not all(isinstance(words, list) for words in content.values()):
        raise UserError(f"prompt file {path} must hold a list of prompts or a dict of lists of occupations: rewrite it")
    if "test_prompts" in content:
        return [(prompt, None, "test") for prompt in content["test_prompts"]]
    if "prompt_templates_test" in content and "occupations_test_set" in content:
        pairs = [(t, word) for t in content["prompt_templates_test"] for word in content["occupations_test_set"]]
        return [(str(template).replace("{occupation}", str(word)), word, "test") for template, word in pairs]
    for word in (word for words in content.values() for word in words):
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"prompt file {path} holds {word!r}, which is not an occupation: remove it")
    return [(photo_of(word), word, "test") for words in content.values() for word in words]
