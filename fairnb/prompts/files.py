"""Read prompts from the files people have: text, tables, JSON and JSON lines, those of published code among them."""

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fairnb.errors import UserError
from fairnb.prompts.sets import SPLITS, load_prompt_set, prompt_rows
from fairnb.prompts.templates import photo_of

MARKS = {  # byte order marks; that of UTF-32 begins with that of UTF-16
    **{codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
}
# Names of a column or key, in any case. The second tuple counts where a file has none of the first.
PROMPT, CAPTION = ("prompt", "prompts"), ("text", "caption", "captions")
OCCUPATION = ("occupation", "occupations", "job", "jobs", "profession")
MISSING = {"", "na", "n/a", "nan", "null", "none"}  # as R, pandas and others write a value that is not there
ARTICLES = {"a", "an", "the"}
NO_NAME = {  # with such a word begins a phrase, but no occupation: articles, pronouns and numbers
    *ARTICLES,
    *("ein", "eine", "der", "das", "un", "une", "una", "le", "la", "les", "el", "los", "las", "um", "uma", "il", "een"),
    *("my", "your", "his", "her", "our", "their", "this", "that", "these", "those", "he", "she", "they", "someone"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "several", "many", "some"),
}
PICTURE = re.compile(
    r"(photo|photograph|picture|image|portrait|headshot|selfie|shot|close-?up|drawing|painting|sketch|illustration"
    r"|render|rendering)s? of\b",
    re.IGNORECASE,
)
# What stands before or around a prompt in notes, code, web pages and Git's pointers to large files.
NOT_ALONE = re.compile(
    r"#|//|[-*•] |\d+[.)] |<[!?]|<html|version https://git-lfs|[\"'].*[\"'],?$|[\"'].*[\"']: ", re.IGNORECASE
)


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Read prompts from a file; returns the same columns as `prompt_rows`.

    The file is one of: text (.txt) with one prompt per line; a table (.csv, .tsv, with commas, semicolons, tabs or
    bars) with a column `prompt`, `occupation`, or both; JSON or JSON lines of prompts or of objects with such keys
    (`text` and `caption` mean the same as `prompt`); a JSON dict of such lists, all of which are read (Bias Neurons'
    occupation.json); a JSON prompt set of fairnb; one of FFD's JSON files, of which `test_prompts`, or else the test
    templates and occupations, are used. "FILE:NAME" chooses one list of a JSON dict, or a split of a prompt set.

    In all of them, what `is_occupation` takes for a bare occupation becomes "a photo of a ...". A prompt that occurs
    twice, apart from case, articles and spaces, is kept once. Both are said in `attrs["notes"]`, a list of sentences.
    `UserError` names the file and the mistake.
    """
    path, name = _file_and_list(path)
    text, notes, suffix = _text(path), [], path.suffix.lower()
    if not text.strip():
        raise UserError(f"prompt file {path} holds no prompt: write one per line")
    names = _header(text)[1]
    headed = any(map(_is_known, names)) or (len(names) == 1 and names[0].strip().casefold() in CAPTION)
    if text.lstrip()[0] in "[{" or (suffix in (".json", ".jsonl", ".ndjson") and not headed):
        rows = _rows_of_json(_parsed(text, path), path, name, notes)
    elif name is not None:
        raise UserError(f"prompt file {path} is not JSON, so it has no list '{name}': leave out ':{name}'")
    elif headed or suffix in (".csv", ".tsv", ".tab"):
        rows = _rows_of_table(text, path)
        if suffix not in (".csv", ".tsv", ".tab"):
            notes.append(f"{path}: read as a table, since its first line names the columns {_listed(names)}")
    elif suffix in (".txt", ".text"):
        rows = _rows_of_text(text, path)
    else:
        raise UserError(
            f"prompt file {path} is not recognised by its content or its suffix '{path.suffix}': give a .txt with one "
            "prompt per line, a .csv or .tsv with a column 'prompt', or a .json or .jsonl"
        )
    return _table(rows, path, notes)


def is_occupation(text: str) -> bool:
    """Whether a text is a bare occupation ("crane and tower operator"), not a whole prompt ("a photo of an usher").

    An occupation is at most six words of Latin letters, does not begin with an article, a pronoun or a number, and does
    not say that it is a picture ("portrait of ...").
    """
    words = text.split()
    return (
        0 < len(words) <= 6
        and all(re.fullmatch(r"[A-Za-zÀ-ɏ&(/][A-Za-zÀ-ɏ'’&()/-]*", word) for word in words)
        and words[0].lower() not in NO_NAME
        and not PICTURE.search(text)
    )


def _file_and_list(path: str | Path) -> tuple[Path, str | None]:
    file, colon, name = str(path).rpartition(":")
    chosen = colon and not os.path.exists(path) and os.path.isfile(file)  # unlike Path's, they take any length
    return (Path(file), name) if chosen else (Path(path), None)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"prompt file {path} cannot be read ({error.strerror}): give a .txt, .csv or .json") from error
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"prompt file {path} is not text in UTF-8: save it as .txt or .csv in UTF-8")
    return re.sub(r"\Asep=.[\r\n]+", "", text)  # Excel's note of its delimiter


def _rows_of_text(text: str, path: Path) -> list[tuple]:
    lines = [(number, line.strip()) for number, line in enumerate(_lines(text), 1) if line.strip()]
    for number, line in lines:
        if "\t" in line:
            raise UserError(f"line {number} of prompt file {path} has a tab: name the columns in a first line 'prompt'")
        if NOT_ALONE.match(line):
            raise UserError(f"line {number} of prompt file {path} is '{line[:40]}': leave only the prompt on it")
    return [(line, None, "test") for _, line in lines]


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)  # not splitlines, which also cuts at characters inside a prompt


def _header(text: str) -> tuple[str, list[str]]:
    """Delimiter and fields of a table's first line: those with the most known names, then with the most fields."""
    line = _lines(text.lstrip("\r\n")[: 2**16])[0]  # the csv module stops at longer fields
    split = {mark: next(csv.reader([line], delimiter=mark, skipinitialspace=True), []) for mark in ",;\t|"}
    return max(split.items(), key=lambda item: (sum(map(_is_known, item[1])), len(item[1])))


def _is_known(name: str) -> bool:
    return name.strip().casefold() in PROMPT + OCCUPATION


def _rows_of_table(text: str, path: Path) -> list[tuple]:
    content = text.lstrip("\r\n")
    try:
        delimiter, names = _header(content)
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)][1:]
    except csv.Error as error:
        raise UserError(f"prompt file {path} is not a table: {error}; put a prompt with quotes in quotes") from error
    columns = _columns(names, path)
    for number, row in rows:
        if len(row) > len(names):
            raise UserError(
                f"prompt file {path} has more fields than columns in line {number}: put such a prompt in quotes"
            )
        if len(row) <= names.index(columns[0] or columns[1]):
            raise UserError(f"prompt file {path} has no prompt in line {number}: write one")
    return [_row(dict(zip(names, row, strict=False)), columns) for _, row in rows]


def _columns(names: Iterable[str], path: Path) -> tuple[str | None, str | None]:
    """The names of the columns of prompts and of occupations among those of a table or of an object."""
    names = list(names)
    known = [[name for name in names if name.strip().casefold() in kind] for kind in (PROMPT, CAPTION, OCCUPATION)]
    prompt, occupation = known[0] or known[1], known[2]
    if len(prompt) > 1 or len(occupation) > 1 or not prompt + occupation:
        raise UserError(
            f"prompt file {path} has the columns {_listed(names)}: name just one of them (a key, or in the first line) "
            "'prompt', or 'occupation'"
        )
    return (prompt or [None])[0], (occupation or [None])[0]


def _row(values: dict[str, Any], columns: tuple[str | None, str | None]) -> tuple:
    prompt, occupation = columns
    if prompt is None:
        return values[occupation], None, "test"
    return values[prompt], values.get(occupation), "test"


def _parsed(text: str, path: Path) -> Any:
    """The content of JSON; of JSON lines the list of all lines."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason, lines = error, [(number, line) for number, line in enumerate(_lines(text), 1) if line.strip()]
    content = []
    for number, line in lines:
        try:
            content.append(json.loads(line, object_pairs_hook=_without_repeats))
        except (ValueError, RecursionError) as error:
            why = f"is not JSON in line {number} ({error})" if content else f"is not JSON ({reason})"
            raise UserError(f"prompt file {path} {why}: correct it, or write one prompt per line in a .txt") from error
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two equal keys Python would silently drop the first."""
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice")
    return dict(pairs)


def _rows_of_json(content: Any, path: Path, name: str | None, notes: list[str]) -> list[tuple]:
    if isinstance(content, dict) and isinstance(content.get("occupations"), dict):
        words = load_prompt_set(path)
        table = prompt_rows(words, *(SPLITS if name is None else [_one_of(name, SPLITS, path)]))
        return list(table.drop(columns="prompt_id").itertuples(index=False, name=None))
    entries = content if isinstance(content, dict) else {}
    lists = {key: value for key, value in entries.items() if isinstance(value, list)}
    if not lists or any(isinstance(value, str) and _is_known(key) for key, value in entries.items()):
        if name is not None:
            raise UserError(f"prompt file {path} has no list '{name}', nor any list with a name: leave out ':{name}'")
        if not isinstance(content, list | dict | str):
            raise UserError(f"prompt file {path} must hold a list of prompts or a dict of such lists: rewrite it")
        return _rows_of_list(content if isinstance(content, list) else [content] * bool(content), path)  # a single line
    if name is not None:
        return _rows_of_list(lists[_one_of(name, lists, path)], path)
    templates, occupations = "prompt_templates_test", "occupations_test_set"
    read = ["test_prompts"] if "test_prompts" in lists else [templates, occupations]
    if set(read) <= set(lists):  # one of FFD's files
        if left := [key for key in content if key not in read]:
            notes.append(f"{path}: only {_listed(read)} is read, not {_listed(left)}; write {path}:NAME for one list")
        if read == ["test_prompts"]:
            return _rows_of_list(lists["test_prompts"], path)
        pairs = [(t, word) for t in lists[templates] for word in lists[occupations]]
        return [(_filled(template, word), word, "test") for template, word in pairs]
    if other := [key for key in content if key not in lists]:
        raise UserError(
            f"prompt file {path} holds {other[0]!r}, which is not a list: remove it, or write {path}:NAME to choose "
            f"one of {_listed(lists)}"
        )
    return [row for values in lists.values() for row in _rows_of_list(values, path)]


def _one_of(name: str, names: Iterable[str], path: Path) -> str:
    if name not in names:
        raise UserError(f"prompt file {path} has no list '{name}': choose one of {_listed(names)}")
    return name


def _listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first twelve."""
    names = [repr(name[:40]) for name in names]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _filled(template: Any, word: Any) -> Any:
    """A template of FFD with its occupation; what is no text stays as it is, to be refused like any other entry."""
    return template.replace("{occupation}", word) if isinstance(template, str) and isinstance(word, str) else word


def _rows_of_list(values: list, path: Path) -> list[tuple]:
    return [
        _row(value, _columns(value, path)) if isinstance(value, dict) else (value, None, "test") for value in values
    ]


def _table(rows: list[tuple], path: Path, notes: list[str]) -> pd.DataFrame:
    """The table of `read_prompts` from (prompt or occupation, occupation, split)."""
    kept: dict[tuple, list] = {}
    bare, twice = [], []
    for text, named, split in rows:
        absent = named is None or (isinstance(named, str) and named.strip().casefold() in MISSING)
        prompt, occupation = _clean(text, path), None if absent else _clean(named, path)
        if is_occupation(prompt):
            bare.append(prompt)
            prompt, occupation = photo_of(prompt), occupation or prompt
        key = _compared(prompt)
        if key not in kept:
            kept[key] = [prompt, occupation, split]
            continue
        twice.append(prompt)
        first = kept[key]
        if first[1] and occupation and _compared(first[1]) != _compared(occupation):
            raise UserError(
                f"prompt file {path} has '{prompt}' twice, for '{first[1]}' and '{occupation}': remove one of them"
            )
        first[1] = first[1] or occupation
    if not kept:
        raise UserError(f"prompt file {path} holds no prompt: write one per line")
    if bare:
        notes.append(
            f"{path}: {len(bare)} of {len(rows)} entries are bare occupations; '{bare[0]}' becomes "
            f"'{photo_of(bare[0])}' (for the words alone write '{photo_of(bare[0]).partition(' of ')[2]}')"
        )
    if twice:
        notes.append(
            f"{path}: {len(twice)} of {len(rows)} entries repeat a prompt, apart from case and articles, and are left "
            f"out, such as '{twice[0]}'"
        )
    table = pd.DataFrame(
        [(number, *row) for number, row in enumerate(kept.values())],
        columns=["prompt_id", "prompt", "occupation", "split"],
        dtype=object,  # keeps None for a missing occupation
    ).astype({"prompt_id": int})
    table.attrs["notes"] = notes
    return table


def _clean(text: Any, path: Path) -> str:
    """A prompt on one line with single spaces, which the tokeniser of Stable Diffusion makes of it anyway."""
    prompt = " ".join(text.replace("\ufeff", "").split()) if isinstance(text, str) else ""  # a mark of joined files
    if prompt.casefold() in MISSING or any(unicodedata.category(character) in ("Cc", "Cs") for character in prompt):
        raise UserError(f"prompt file {path} holds {str(text)[:60]!r}, which is not a prompt: remove it")
    if re.search(r"\{\w*\}", prompt):
        raise UserError(f"prompt file {path} holds the template '{prompt[:60]}': fill it in, or choose another list")
    return prompt


def _compared(prompt: str) -> tuple[str, ...]:
    """What two prompts that are the same have in common."""
    words = prompt.casefold().split()
    return tuple(word for word in words if word not in ARTICLES) or tuple(words)
