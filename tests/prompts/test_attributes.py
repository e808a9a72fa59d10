from fairnb.prompts.attributes import ATTRIBUTES, RACE, WORD_ORDER, joint_attribute


def test_joined_attributes_have_every_combination() -> None:
    both = joint_attribute(["gender", "age"])
    assert both.name == "gender+age"
    assert both.classes == ("female young", "female old", "male young", "male old")
    assert joint_attribute(["race"]).classes == RACE.classes


def test_every_attribute_has_its_place_in_a_prompt() -> None:
    assert sorted(WORD_ORDER) == sorted(ATTRIBUTES)
