"""Prompt templates, and attribute words inserted into prompts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fairnb.errors import UserError
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.seeds import stable_seed


def _with_article(phrase: str) -> str:
    """Add a or an by sound ("an old pilot", "a university teacher"), as far as a few rules go."""
    word = phrase.lower()
    if word.startswith(("uni", "use", "util", "eu", "one")):
        return f"a {phrase}"
    return f"an {phrase}" if word.startswith(("a", "e", "i", "o", "u", "hour", "honest", "heir")) else f"a {phrase}"


def photo_of(phrase: str, style: str = "photo") -> str:
    """Return a prompt such as "a photo of a doctor", "a photo of an old pilot" or "an oil painting of a cup"."""
    return f"{_with_article(style)} of {_with_article(phrase)}"


def name_class(prompt: str, words: str) -> str:
    """Insert `words` before the subject: "a drawing of a pilot at night" becomes "a drawing of a female pilot at
    night".

    `UserError` if the prompt does not have the form "a STYLE of a SUBJECT".
    """
    if not words:
        return prompt
    head, found, subject = prompt.partition(" of a")
    article, space, subject = subject.partition(" ")
    if not found or not subject or article not in ("", "n"):
        raise UserError(f"no class can be named in the prompt '{prompt}': write it like 'a photo of a doctor'")
    return f"{head} of {_with_article(f'{words} {subject}')}"


def draw_words(rows: pd.DataFrame, shares: Mapping[str, Sequence[float]], images: int, seed: int) -> pd.DataFrame:
    """Add a column `words` to the rows of `prompt_rows`: for each of `images` images, random attribute words.

    The classes of every attribute are drawn with the given shares. This is the trivial baseline of every method.
    `measure.generate` inserts the words before the subject and keeps the noise of the plain prompt.
    """
    drawn = []
    for prompt in rows.prompt:
        rng = np.random.default_rng(stable_seed(seed, "words", prompt))
        named = sorted(shares, key=WORD_ORDER.index)
        words = [rng.choice(get_attribute(name).words, images, p=np.asarray(shares[name], float)) for name in named]
        drawn.append([" ".join(each) for each in zip(*words, strict=True)])
    return rows.assign(words=drawn)
