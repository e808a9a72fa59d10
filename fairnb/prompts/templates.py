"""The field's prompt template, how a class is named in it, and attribute words drawn into prompts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fairnb.errors import UserError
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.seeds import stable_seed


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


def draw_words(rows: pd.DataFrame, shares: Mapping[str, Sequence[float]], images: int, seed: int) -> pd.DataFrame:
    """The rows (`prompt_rows`) with the column `words`: for each of `images` pictures of a prompt the words of a class
    of every attribute, drawn with its share. The trivial rival of every method: who is seen is written into the prompt.

    `generate.generate` puts them before the subject; the noise stays that of the plain prompt.
    """
    drawn = []
    for prompt in rows.prompt:
        rng = np.random.default_rng(stable_seed(seed, "words", prompt))
        named = sorted(shares, key=WORD_ORDER.index)
        words = [rng.choice(get_attribute(name).words, images, p=np.asarray(shares[name], float)) for name in named]
        drawn.append([" ".join(each) for each in zip(*words, strict=True)])
    return rows.assign(words=drawn)
