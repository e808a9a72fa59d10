"""Attributes and their classes: *perceived appearance as a classifier sees it*, never identity."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from fairnb.errors import UserError


@dataclass(frozen=True)
class Attribute:
    """A perceived attribute: its K classes, and the word that names each class in a prompt."""

    name: str
    classes: tuple[str, ...]
    words: tuple[str, ...]

    def index(self, class_name: str) -> int:
        """Return the position of a class; `UserError` for an unknown class."""
        if class_name not in self.classes:
            raise UserError(f"{self.name} has no class '{class_name}': use one of {', '.join(self.classes)}")
        return self.classes.index(class_name)


GENDER = Attribute("gender", ("female", "male"), ("female", "male"))
SKIN_TONE = Attribute(
    "skin_tone",
    ("light", "medium", "brown", "dark"),
    ("light-skinned", "medium-skinned", "brown-skinned", "dark-skinned"),
)
AGE = Attribute("age", ("young", "old"), ("young", "old"))
# FFD's classes and order (Shen et al., ICLR 2024); WMELH is White, Middle Eastern and Latino Hispanic.
RACE = Attribute("race", ("WMELH", "Black", "Indian", "Asian"), ("white", "black", "Indian", "Asian"))
ATTRIBUTES = {attribute.name: attribute for attribute in (GENDER, SKIN_TONE, AGE, RACE)}
WORD_ORDER = ("age", "skin_tone", "race", "gender")  # as in "an old dark-skinned female doctor"


def joint_attribute(names: Sequence[str]) -> Attribute:
    """Return one attribute whose classes are all combinations: gender+age has "female young", "female old", ..."""
    each = [get_attribute(name) for name in names]
    classes = tuple(" ".join(parts) for parts in product(*(attribute.classes for attribute in each)))
    words = tuple(" ".join(parts) for parts in product(*(attribute.words for attribute in each)))
    return Attribute("+".join(names), classes, words)


def get_attribute(name: str) -> Attribute:
    """Return the attribute with this name; `UserError` if there is none."""
    if name not in ATTRIBUTES:
        raise UserError(f"unknown attribute '{name}': use one of {', '.join(ATTRIBUTES)}")
    return ATTRIBUTES[name]
