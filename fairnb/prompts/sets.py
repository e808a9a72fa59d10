"""Prompts and the sets of words they are made of: occupations in three splits, contents without people, contexts."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fairnb.errors import UserError
from fairnb.prompts.templates import name_class, photo_of

SPLITS = ("train", "validation", "test")
OCCUPATIONS = "occupations"  # the kind of prompts that every set has


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
