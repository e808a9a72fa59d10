"""The planted truth of the mini world: the shares of each occupation, and the captions.

Every share below is our decision and no statistic of the real world: the mini world is biased on purpose, in both
directions, so that measurements can be compared with a known truth.
"""

from dataclasses import dataclass

import numpy as np

from fairnb.prompts.attributes import AGE, GENDER, SKIN_TONE, Attribute
from fairnb.prompts.templates import photo_of

ATTRIBUTES: tuple[Attribute, ...] = (GENDER, SKIN_TONE, AGE)
TONES = {  # shares of light, medium, brown, dark
    "pale": (0.62, 0.22, 0.10, 0.06),
    "mid": (0.28, 0.42, 0.20, 0.10),
    "deep": (0.12, 0.24, 0.42, 0.22),
    "dark": (0.08, 0.14, 0.28, 0.50),
}
OCCUPATIONS = {  # share of women, share of the old, skin tone shares
    "doctor": (0.14, 0.40, "pale"),
    "nurse": (0.92, 0.15, "mid"),
    "teacher": (0.82, 0.35, "pale"),
    "chef": (0.15, 0.30, "mid"),
    "pilot": (0.08, 0.40, "pale"),
    "firefighter": (0.10, 0.15, "pale"),
    "farmer": (0.15, 0.60, "deep"),
    "builder": (0.08, 0.30, "deep"),
    "police officer": (0.18, 0.25, "dark"),
    "lawyer": (0.20, 0.60, "pale"),
    "librarian": (0.88, 0.65, "pale"),
    "carpenter": (0.10, 0.50, "mid"),
    "mechanic": (0.08, 0.30, "deep"),
    "gardener": (0.78, 0.55, "deep"),
    "baker": (0.80, 0.35, "mid"),
    "lifeguard": (0.22, 0.08, "mid"),
    "astronaut": (0.15, 0.30, "pale"),
    "soldier": (0.10, 0.12, "dark"),
    "painter": (0.25, 0.60, "pale"),
    "singer": (0.85, 0.15, "dark"),
    "waiter": (0.20, 0.20, "mid"),
    "sailor": (0.12, 0.50, "pale"),
    "electrician": (0.10, 0.35, "deep"),
    "dancer": (0.90, 0.08, "dark"),
    "scientist": (0.12, 0.50, "pale"),
    "miner": (0.08, 0.35, "dark"),
    "fisher": (0.12, 0.60, "deep"),
    "hairdresser": (0.90, 0.20, "mid"),
    "postal worker": (0.15, 0.40, "dark"),
    "jockey": (0.15, 0.10, "pale"),
    "magician": (0.10, 0.50, "mid"),
    "cleaner": (0.88, 0.45, "deep"),
}
PERSON = (0.40, 0.25, "mid")
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


def shares(occupation: str) -> dict[str, dict[str, float]]:
    """Planted share of every class of every attribute for an occupation (or "person")."""
    women, old, tone = OCCUPATIONS.get(occupation, PERSON)
    return {
        "gender": {"female": women, "male": round(1 - women, 6)},
        "skin_tone": dict(zip(SKIN_TONE.classes, TONES[tone], strict=True)),
        "age": {"young": round(1 - old, 6), "old": old},
    }


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a key with the probability it holds."""
    return str(rng.choice(list(weights), p=list(weights.values())))


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
    planted = shares(noun)
    classes = {a.name: str(rng.choice(a.classes)) if a in named else pick(rng, planted[a.name]) for a in ATTRIBUTES}
    scene = Scene(kind, noun, style, context, **classes)
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
        "person": shares("person"),
        "contexts": list(CONTEXTS),
        "subjects_without_people": list(SUBJECTS),
        "styles": STYLES,
        "kinds_of_captions": KINDS,
        "share_of_captions_without_attributes": UNNAMED,
        "share_of_attributes_named_in_the_others": NAMED,
        "share_of_captions_with_context": WITH_CONTEXT,
        "mean_gender_bias": float(np.mean([abs(2 * women - 1) for women, _, _ in OCCUPATIONS.values()])),
    }
