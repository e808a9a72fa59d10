"""Prompts and the sets of words they are made of: occupations in three splits, contents without people, contexts."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fairnb.attributes import WORD_ORDER, get_attribute
from fairnb.errors import UserError

SPLITS = ("train", "validation", "test")
OCCUPATIONS = "occupations"  # the kind of prompts that every set has


def _with_article(phrase: str) -> str:
    """'an old pilot', 'a university teacher': by sound, for the few words whose first letter misleads."""
    word = phrase.lower()
    if word.startswith(("uni", "use", "util", "eu", "one")):
        return f"a {phrase}"
    return f"an {phrase}" if word.startswith(("a", "e", "i", "o", "u", "hour", "honest", "heir")) else f"a {phrase}"


def photo_of(phrase: str, style: str = "photo") -> str:
    """The field's prompt template: 'a photo of a doctor', 'a photo of an old pilot', 'an oil painting of a cup'."""
    return f"{_with_article(style)} of {_with_article(phrase)}"


def name_class(prompt: str, words: str) -> str:
    """The prompt with `words` before its subject: "a drawing of a pilot at night" and "female" give "a drawing of a
    female pilot at night". `UserError` for a prompt that is not written "a STYLE of a SUBJECT"."""
    if not words:
        return prompt
    head, found, subject = prompt.partition(" of a")
    article, space, subject = subject.partition(" ")
    if not found or not subject or article not in ("", "n"):
        raise UserError(f"no class can be named in the prompt '{prompt}': write it like 'a photo of a doctor'")
    return f"{head} of {_with_article(f'{words} {subject}')}"


def stable(*parts: object) -> int:
    """A seed from the parts, the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:7], "big")


def draw_words(rows: pd.DataFrame, shares: Mapping[str, Sequence[float]], images: int, seed: int) -> pd.DataFrame:
    """The rows (`prompt_rows`) with the column `words`: for each of `images` pictures of a prompt the words of a class
    of every attribute, drawn with its share. The trivial rival of every method: who is seen is written into the prompt.

    `generate.generate` puts them before the subject; the noise stays that of the plain prompt.
    """
    drawn = []
    for prompt in rows.prompt:
        rng = np.random.default_rng(stable(seed, "words", prompt))
        named = sorted(shares, key=WORD_ORDER.index)
        words = [rng.choice(get_attribute(name).words, images, p=np.asarray(shares[name], float)) for name in named]
        drawn.append([" ".join(each) for each in zip(*words, strict=True)])
    return rows.assign(words=drawn)


class PromptSet(BaseModel):
    """Words for prompts. `occupations` maps train, validation and test to disjoint lists: what is debiased on, chosen
    on, and reported on. `contents` are subjects without people, `contexts` are places and times ("by the sea").
    `kinds` holds further kinds of prompts with people, each in the same splits, written whole ("a photo of a happy
    person")."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    occupations: dict[str, list[str]]
    contents: list[str]
    contexts: list[str]
    kinds: dict[str, dict[str, list[str]]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "PromptSet":
        if set(self.occupations) != set(SPLITS):
            raise ValueError(f"occupations needs exactly the splits {', '.join(SPLITS)}")
        lists = {f"occupations.{split}": words for split, words in self.occupations.items()}
        for key, words in {**lists, "contents": self.contents, "contexts": self.contexts}.items():
            if not words:
                raise ValueError(f"{key} is empty")
            if blank := [word for word in words if not word.strip()]:
                raise ValueError(f"{key} holds the blank word {blank[0]!r}")
            if twice := {word for word in words if words.count(word) > 1}:
                raise ValueError(f"{key} holds '{min(twice)}' twice")
        every = self.all()
        if shared := {word for word in every if every.count(word) > 1}:
            raise ValueError(f"'{min(shared)}' is in two splits of occupations")
        for kind, splits in self.kinds.items():
            if kind == OCCUPATIONS or set(splits) != set(SPLITS):
                raise ValueError(f"kinds.{kind} needs another name than occupations and the splits {', '.join(SPLITS)}")
        prompts = [prompt for splits in self.kinds.values() for words in splits.values() for prompt in words]
        if twice := {prompt for prompt in prompts if prompts.count(prompt) > 1}:
            raise ValueError(f"kinds hold '{min(twice)}' twice")
        for prompt in prompts:
            try:
                name_class(prompt, "old")
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    def split(self, name: str) -> list[str]:
        """The occupations of one split."""
        if name not in SPLITS:
            raise UserError(f"unknown split '{name}': use one of {', '.join(SPLITS)}")
        return self.occupations[name]

    def prompts(self, split: str, kinds: Sequence[str] = (OCCUPATIONS,)) -> list[str]:
        """Whole prompts of one split of the kinds, occupations as "a photo of a ..."."""
        rows = prompt_rows(self, split, kinds=kinds)
        return rows.prompt.tolist()

    def all(self) -> list[str]:
        """Every occupation, train first, then validation, then test; the position is the prompt id."""
        return [word for split in SPLITS for word in self.occupations[split]]

    def split_of(self, occupation: str) -> str:
        """The split that holds an occupation; `UserError` when none does."""
        for split in SPLITS:
            if occupation in self.occupations[split]:
                return split
        near = get_close_matches(occupation, self.all(), 1)
        hint = f"did you mean '{near[0]}'" if near else f"use one of {', '.join(self.all())}"
        raise UserError(f"unknown occupation '{occupation}': {hint}")


def load_prompt_set(path: str | Path) -> PromptSet:
    """Read a prompt set from JSON; `UserError` names the file and what is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt file {path} cannot be read ({error}): give a JSON prompt set") from error
    if not text.strip():
        raise UserError(f"prompt file {path} is empty: see data/prompts/mini.json for the form")
    try:
        return PromptSet.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"prompt file {path} is not JSON: {error.msg} in line {error.lineno}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"prompt file {path}: {f'{key}: ' if key else ''}{reason}; correct the file") from error


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Prompts from a file in one of the forms of the field, as rows like `prompt_rows` gives.

    A text file with a prompt a line; a CSV with the column `prompt` (and `occupation`, if it has one); a JSON list of
    prompts; a JSON prompt set of ours or a dict of lists of occupations (Bias Neurons' occupation.json), which become
    "a photo of a ..."; FFD's files, whose `test_prompts` are taken, or else its test templates and occupations.
    `UserError` names the file and what is wrong in it.
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
        raise UserError(f"prompt file {path} holds no prompt: write one a line")
    for prompt, _, _ in rows:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"prompt file {path} holds {prompt!r}, which is no prompt: remove it")
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
        raise UserError(f"prompt file {path} has no column 'prompt': name the column with the prompts so")
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
            raise UserError(f"prompt file {path} holds {word!r}, which is no occupation: remove it")
    return [(photo_of(word), word, "test") for words in content.values() for word in words]


def prompt_rows(
    prompts: PromptSet, *splits: str, word: str = "", kinds: Sequence[str] = (OCCUPATIONS,)
) -> pd.DataFrame:
    """One row per prompt of the splits: prompt_id, prompt, occupation (None in other kinds), split.

    `word` asks for a class explicitly ("male" gives "a photo of a male doctor"). The id is the prompt's position among
    all prompts of all kinds, occupations first, so it is the same whichever splits and kinds are asked for.
    `UserError` for a kind that the set does not have.
    """
    every = {
        OCCUPATIONS: [(photo_of(name), name, split) for split in SPLITS for name in prompts.occupations[split]],
        **{
            kind: [(prompt, None, split) for split in SPLITS for prompt in words[split]]
            for kind, words in prompts.kinds.items()
        },
    }
    if unknown := [kind for kind in kinds if kind not in every]:
        raise UserError(f"no prompts of kind '{unknown[0]}': use {', '.join(every)}")
    for split in splits:
        prompts.split(split)  # refuses an unknown one
    numbered = enumerate((kind, row) for kind, rows in every.items() for row in rows)
    chosen = [(number, *row) for number, (kind, row) in numbered if kind in kinds and row[2] in splits]
    chosen.sort(key=lambda row: (splits.index(row[3]), row[0]))
    return pd.DataFrame(
        [(number, name_class(prompt, word), occupation, split) for number, prompt, occupation, split in chosen],
        columns=["prompt_id", "prompt", "occupation", "split"],
        dtype=object,  # a missing occupation stays None
    ).astype({"prompt_id": int})
