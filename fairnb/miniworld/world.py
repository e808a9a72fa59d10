"""The planted truth of the mini world: the shares of each occupation, and the captions.

Every share here and in `occupations.csv` is our decision and no statistic of the real world: the mini world is biased
on purpose, in both directions, so that measurements can be compared with a known truth.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from fairnb.miniworld.occupations import occupations
from fairnb.prompts.attributes import AGE, GENDER, SKIN_TONE, Attribute
from fairnb.prompts.templates import photo_of

ATTRIBUTES: tuple[Attribute, ...] = (GENDER, SKIN_TONE, AGE)
TONES = {  # shares of light, medium, brown, dark
    "pale": (0.62, 0.22, 0.10, 0.06),
    "mid": (0.28, 0.42, 0.20, 0.10),
    "deep": (0.12, 0.24, 0.42, 0.22),
    "dark": (0.08, 0.14, 0.28, 0.50),
}
OCCUPATIONS = occupations()
PERSON = {"women": 0.40, "old": 0.25, "tones_of_women": "mid", "tones_of_men": "mid"}
CONTEXTS = (
    "in a garden",
    "at night",
    "by the sea",
    "in a city",
    "in the snow",
    "in a room",
    "in a desert",
    "in a forest",
)
SUBJECTS = ("house", "tree", "boat", "car", "flower", "mountain", "cup", "fish", "star", "book")
STYLES = {"photo": 0.86, "drawing": 0.07, "painting": 0.07}
NOUNS = {"female": "woman", "male": "man"}
KINDS = {"occupation": 0.84, "person": 0.08, "subject": 0.08}
UNNAMED = 0.35  # share of captions that name no attribute
NAMED = 0.6  # in the other captions, the chance of each attribute to be named
WITH_CONTEXT = 0.4


@dataclass(frozen=True)
class Scene:
    """The content of one portrait. Attributes are None for a subject without people."""

    kind: str
    noun: str
    style: str
    context: str | None
    gender: str | None = None
    skin_tone: str | None = None
    age: str | None = None


def tones(occupation: str) -> dict[str, dict[str, float]]:
    """Planted shares of the skin tones among the women and among the men of an occupation (or of "person").

    For some occupations they differ, so that to align gender and tone jointly is more than to align each.
    """
    line = OCCUPATIONS.get(occupation, PERSON)
    return {
        gender: dict(zip(SKIN_TONE.classes, TONES[line[key]], strict=True))
        for gender, key in (("female", "tones_of_women"), ("male", "tones_of_men"))
    }


def shares(occupation: str) -> dict[str, dict[str, float]]:
    """Planted share of every class of every attribute for an occupation (or "person")."""
    line = OCCUPATIONS.get(occupation, PERSON)
    genders = {"female": line["women"], "male": round(1 - line["women"], 6)}
    of = tones(occupation)
    return {
        "gender": genders,
        "skin_tone": {c: round(sum(genders[g] * of[g][c] for g in genders), 6) for c in SKIN_TONE.classes},
        "age": {"young": round(1 - line["old"], 6), "old": line["old"]},
    }


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a key with the probability it holds."""
    return str(rng.choice(list(weights), p=list(weights.values())))


def draw_person(rng: np.random.Generator, occupation: str, named: Collection[Attribute] = ()) -> dict[str, str]:
    """Draw the class of every attribute, by name: uniform where it is in `named`, else by the planted shares."""
    planted = shares(occupation)
    gender = pick(rng, dict.fromkeys(GENDER.classes, 1 / 2) if GENDER in named else planted["gender"])
    uniform = dict.fromkeys(SKIN_TONE.classes, 1 / len(SKIN_TONE.classes))
    tone = pick(rng, uniform if SKIN_TONE in named else tones(occupation)[gender])
    age = pick(rng, dict.fromkeys(AGE.classes, 1 / 2) if AGE in named else planted["age"])
    return {"gender": gender, "skin_tone": tone, "age": age}


def draw_scene(rng: np.random.Generator) -> tuple[str, Scene]:
    """Draw a caption and its scene.

    A named attribute is uniform over its classes, one that is not named follows the planted shares of the occupation.
    So the words are learned for every class, including rare combinations, and the bias is in the captions without them.
    """
    kind, style = pick(rng, KINDS), pick(rng, STYLES)
    context = str(rng.choice(CONTEXTS)) if rng.random() < WITH_CONTEXT else None
    if kind == "subject":
        scene = Scene(kind, str(rng.choice(SUBJECTS)), style, context)
        return caption(scene, ()), scene
    noun = str(rng.choice(list(OCCUPATIONS))) if kind == "occupation" else "person"
    named = [a for a in ATTRIBUTES if rng.random() < NAMED] if rng.random() >= UNNAMED else []
    scene = Scene(kind, noun, style, context, **draw_person(rng, noun, named))
    return caption(scene, tuple(a.name for a in named)), scene


def caption(scene: Scene, named: tuple[str, ...]) -> str:
    """The caption of a scene, naming the attributes in `named`; a person of named gender is a man or a woman."""
    words = [
        attribute.words[attribute.index(getattr(scene, attribute.name))]
        for attribute in (AGE, SKIN_TONE, GENDER)
        if attribute.name in named and not (attribute is GENDER and scene.noun == "person")
    ]
    noun = NOUNS[scene.gender] if scene.noun == "person" and "gender" in named else scene.noun
    return " ".join([photo_of(" ".join([*words, noun]), scene.style), *([scene.context] if scene.context else [])])


def names_attribute(text: str) -> bool:
    """Whether a caption names the class of any attribute."""
    names = {*NOUNS.values(), *(word for attribute in ATTRIBUTES for word in attribute.words)}
    return not names.isdisjoint(text.split())


def vocabulary() -> list[str]:
    """Every word of the captions, sorted."""
    phrases = [*OCCUPATIONS, *CONTEXTS, *SUBJECTS, *STYLES, *NOUNS.values(), "person", "a", "an", "of", "the"]
    phrases += [word.replace("-", " - ") for attribute in ATTRIBUTES for word in attribute.words]
    return sorted({word for phrase in phrases for word in phrase.split()})


def world() -> dict:
    """The planted truth as data, for `world.json`."""
    return {
        "what": "planted shares of each class, in the captions that do not name the attribute",
        "occupations": {name: shares(name) for name in OCCUPATIONS},
        "skin_tones_of_women_and_men_where_they_differ": {
            name: tones(name) for name, line in OCCUPATIONS.items() if line["tones_of_women"] != line["tones_of_men"]
        },
        "person": shares("person"),
        "contexts": list(CONTEXTS),
        "subjects_without_people": list(SUBJECTS),
        "styles": STYLES,
        "kinds_of_captions": KINDS,
        "share_of_captions_without_attributes": UNNAMED,
        "share_of_attributes_named_in_the_others": NAMED,
        "share_of_captions_with_context": WITH_CONTEXT,
        "mean_gender_bias": float(np.mean([abs(2 * line["women"] - 1) for line in OCCUPATIONS.values()])),
    }
