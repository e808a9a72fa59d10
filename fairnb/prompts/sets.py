"""Prompt sets: occupations in three splits, contents without people, contexts, and further kinds of prompts."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fairnb.errors import UserError
from fairnb.prompts.templates import name_class, photo_of

SPLITS = ("train", "validation", "test")
OCCUPATIONS = "occupations"  # the kind that every prompt set has


class PromptSet(BaseModel):
    """The words and prompts of a run.

    `occupations` maps train, validation and test to disjoint lists; training uses the first, model selection the second
    and reports the third. `contents` are subjects without people, `contexts` are places and times ("by the sea").
    `kinds` holds further kinds of complete prompts about people ("a photo of a happy person"), in the same splits.
    """

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
                raise ValueError(f"kinds.{kind} needs a name other than occupations and the splits {', '.join(SPLITS)}")
        prompts = [prompt for splits in self.kinds.values() for words in splits.values() for prompt in words]
        if twice := {prompt for prompt in prompts if prompts.count(prompt) > 1}:
            raise ValueError(f"kinds hold '{min(twice)}' twice")
        for prompt in prompts:
            name_class(prompt, "old")  # raises if no class can be named
        return self

    def split(self, name: str) -> list[str]:
        """Return the occupations of one split; `UserError` for an unknown split."""
        if name not in SPLITS:
            raise UserError(f"unknown split '{name}': use one of {', '.join(SPLITS)}")
        return self.occupations[name]

    def prompts(self, split: str, kinds: Collection[str] | Mapping[str, int] = (OCCUPATIONS,)) -> list[str]:
        """Return the prompts of one split of some kinds; for occupations, "a photo of a ...".

        Of a mapping, each train prompt comes as often as its kind says (FFD's oversampling), others once.
        """
        times = kinds if split == "train" and isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1)
        return [
            prompt
            for kind, count in times.items()
            for prompt in prompt_rows(self, split, kinds=[kind]).prompt.tolist() * count
        ]

    def fewer(self, count: int) -> "PromptSet":
        """Return the set with at most `count` train occupations, evenly spaced. Prompt ids are then others."""
        train = evenly(pd.DataFrame({"name": self.occupations["train"]}), count).name.tolist()
        return self.model_copy(update={"occupations": self.occupations | {"train": train}})

    def all(self) -> list[str]:
        """Return all occupations: train, validation, test. An occupation's position is its prompt id."""
        return [word for split in SPLITS for word in self.occupations[split]]


def load_prompt_set(path: str | Path) -> PromptSet:
    """Read a prompt set from JSON; `UserError` names the file and the mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
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


def prompt_rows(
    prompts: PromptSet, *splits: str, word: str = "", kinds: Collection[str] = (OCCUPATIONS,)
) -> pd.DataFrame:
    """Return a table with one row per prompt: prompt_id, prompt, occupation (None for other kinds), split.

    `word` names a class in every prompt ("male" gives "a photo of a male doctor"). The id is the position among all
    prompts of all kinds, occupations first, so it does not depend on the selected splits and kinds.
    `UserError` for an unknown split or kind.
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
        prompts.split(split)  # raises for an unknown split
    numbered = enumerate((kind, row) for kind, rows in every.items() for row in rows)
    chosen = [(number, *row) for number, (kind, row) in numbered if kind in kinds and row[2] in splits]
    chosen.sort(key=lambda row: (splits.index(row[3]), row[0]))
    return pd.DataFrame(
        [(number, name_class(prompt, word), occupation, split) for number, prompt, occupation, split in chosen],
        columns=["prompt_id", "prompt", "occupation", "split"],
        dtype=object,  # keeps None for a missing occupation
    ).astype({"prompt_id": int})


def evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most `count` of the rows, evenly spaced: neighbours in a list of occupations are often alike."""
    return rows.iloc[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
