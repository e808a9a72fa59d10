"""Prompts and the sets of words they are made of: occupations in three splits, contents without people, contexts."""

import json
from difflib import get_close_matches
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fairnb.errors import UserError

SPLITS = ("train", "validation", "test")


def _with_article(phrase: str) -> str:
    """'an old pilot', 'a university teacher': by sound, for the few words whose first letter misleads."""
    word = phrase.lower()
    if word.startswith(("uni", "use", "util", "eu", "one")):
        return f"a {phrase}"
    return f"an {phrase}" if word.startswith(("a", "e", "i", "o", "u", "hour", "honest", "heir")) else f"a {phrase}"


def photo_of(phrase: str, style: str = "photo") -> str:
    """The field's prompt template: 'a photo of a doctor', 'a photo of an old pilot', 'an oil painting of a cup'."""
    return f"{_with_article(style)} of {_with_article(phrase)}"


class PromptSet(BaseModel):
    """Words for prompts. `occupations` maps train, validation and test to disjoint lists: what is debiased on, chosen
    on, and reported on. `contents` are subjects without people, `contexts` are places and times ("by the sea")."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    occupations: dict[str, list[str]]
    contents: list[str]
    contexts: list[str]

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
        return self

    def split(self, name: str) -> list[str]:
        """The occupations of one split."""
        if name not in SPLITS:
            raise UserError(f"unknown split '{name}': use one of {', '.join(SPLITS)}")
        return self.occupations[name]

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


def prompt_rows(prompts: PromptSet, *splits: str, word: str = "") -> pd.DataFrame:
    """One row per occupation of the splits: prompt_id, prompt, occupation, split.

    `word` asks for a class explicitly ("male" gives "a photo of a male doctor"). The id is the occupation's position
    in `prompts.all()`, so it is the same whichever splits are asked for.
    """
    ids = {occupation: index for index, occupation in enumerate(prompts.all())}
    return pd.DataFrame(
        [
            {"prompt_id": ids[name], "prompt": photo_of(f"{word} {name}".strip()), "occupation": name, "split": split}
            for split in splits
            for name in prompts.split(split)
        ],
        columns=["prompt_id", "prompt", "occupation", "split"],
    )
