"""The exception for mistakes of the user."""

import re
from difflib import get_close_matches

AGAIN = 75  # exit code of a run that was asked to end (SIGTERM): EX_TEMPFAIL, the same call goes on


class UserError(ValueError):
    """A mistake in the user's input; the message is one sentence that names the mistake and what to do.

    IPython shows only this sentence, because a stack trace does not help with a mistyped name.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"fairnb: {self}"]

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # names and library messages may contain line breaks


class Diverged(UserError):
    """A training whose loss is no finite number."""


def explain_invalid(error: dict, known: list[str], renamed: dict[str, str]) -> str:
    """Turn an error of pydantic about a profile into a sentence.

    `known` are all dotted keys, `renamed` maps patterns of older ones to what became of them.
    """
    keys = [str(part) for part in error["loc"] if "[" not in str(part)]  # without pydantic's names of union members
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        if new := next((new for old, new in renamed.items() if re.fullmatch(old, name)), None):
            return f"key '{name}' {new}"
        near = get_close_matches(name, known, 1, cutoff=0.4)
        return f"unknown key '{name}'" + (f", did you mean '{near[0]}'" if near else ": remove it")
    if error["type"] == "missing":
        return f"key '{name}' is missing: add it, see notebooks/profiles/mini.yaml"
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    if error["type"] == "value_error":
        return f"{name}: {reason}" if name else reason
    return f"key '{name}' is {error['input']!r}, but {reason}"
