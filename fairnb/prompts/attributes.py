"""The attributes that fairnb measures: *perceived appearance as a classifier sees it*, never identity."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from fairnb.errors import UserError


@dataclass(frozen=True)
class Attribute:
    """A perceived attribute with K classes and the adjective that asks for each class in a prompt."""

    name: str
    classes: tuple[str, ...]
    words: tuple[str, ...]

    def index(self, class_name: str) -> int:
        """Position of a class; `UserError` for a class the attribute does not have."""
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
# The order of FFD (Shen et al., ICLR 2024): White + Middle Eastern + Latino Hispanic, Black, Indian, Asian.
RACE = Attribute("race", ("WMELH", "Black", "Indian", "Asian"), ("white", "black", "Indian", "Asian"))
ATTRIBUTES = {attribute.name: attribute for attribute in (GENDER, SKIN_TONE, AGE, RACE)}
WORD_ORDER = ("age", "skin_tone", "race", "gender")  # in a prompt: "an old dark-skinned female doctor"


def joint_attribute(names: Sequence[str]) -> Attribute:
    """Several attributes as one, whose classes are their combinations: gender+age with "female young", ..."""
    each = [get_attribute(name) for name in names]
    classes = tuple(" ".join(parts) for parts in product(*(attribute.classes for attribute in each)))
    words = tuple(" ".join(parts) for parts in product(*(attribute.words for attribute in each)))
    return Attribute("+".join(names), classes, words)


def get_attribute(name: str) -> Attribute:
    """Look an attribute up by name; `UserError` when it is unknown."""
    if name not in ATTRIBUTES:
        raise UserError(f"unknown attribute '{name}': use one of {', '.join(ATTRIBUTES)}")
    return ATTRIBUTES[name]
