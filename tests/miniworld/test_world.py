"""The planted truth: what the captions say, and how often."""

import json
from collections import Counter

import numpy as np
import pytest

from fairnb.files import root
from fairnb.miniworld import models
from fairnb.miniworld.draw.scenes import CONTEXTS as SCENES
from fairnb.miniworld.draw.scenes import SUBJECTS as DRAWN
from fairnb.miniworld.draw.wardrobe import OUTFITS
from fairnb.miniworld.world import (
    ATTRIBUTES,
    CONTEXTS,
    OCCUPATIONS,
    STYLES,
    SUBJECTS,
    Scene,
    caption,
    draw_scene,
    shares,
    vocabulary,
    world,
)
from fairnb.prompts.sets import load_prompt_set


def test_the_bias_is_near_stable_diffusions_and_goes_both_ways():
    assert 0.67 <= world()["mean_gender_bias"] <= 0.80
    women = [share for share, _, _ in OCCUPATIONS.values()]
    assert min(women) < 0.1 and max(women) > 0.9
    for name in OCCUPATIONS:
        for classes in shares(name).values():
            assert sum(classes.values()) == pytest.approx(1)


def test_names_agree_with_drawing_prompts_and_file():
    assert set(OUTFITS) - {"person"} == set(OCCUPATIONS)
    assert set(SCENES) - {None} == set(CONTEXTS) and set(DRAWN) == set(SUBJECTS)
    prompts = load_prompt_set(root() / "data" / "prompts" / "mini.json")
    assert sorted(prompts.all()) == sorted(OCCUPATIONS)
    assert [len(prompts.split(name)) for name in ("train", "validation", "test")] == [20, 4, 8]
    assert set(prompts.contents) == set(SUBJECTS) and set(prompts.contexts) == set(CONTEXTS)
    stored = json.loads((root() / "data" / "mini-sd" / "world.json").read_text())
    assert stored["occupations"] == world()["occupations"]


def test_unnamed_attributes_follow_the_plan_and_named_ones_are_balanced():
    rng = np.random.default_rng(0)
    silent, named = Counter(), Counter()
    expected = total = 0
    for _ in range(12_000):
        text, scene = draw_scene(rng)
        if scene.kind != "occupation":
            continue
        if " male " in text or " female " in text:
            named[scene.gender] += 1
        else:
            silent[scene.gender] += 1
            expected += shares(scene.noun)["gender"]["female"]
            total += 1
    assert silent["female"] / total == pytest.approx(expected / total, abs=0.02)
    assert named["female"] / sum(named.values()) == pytest.approx(0.5, abs=0.03)


def test_captions_name_what_they_should():
    scene = Scene("occupation", "pilot", "photo", "by the sea", "female", "dark", "old")
    assert caption(scene, ("gender", "skin_tone", "age")) == "a photo of an old dark-skinned female pilot by the sea"
    assert caption(scene, ()) == "a photo of a pilot by the sea"
    person = Scene("person", "person", "drawing", None, "male", "light", "young")
    assert caption(person, ("gender",)) == "a drawing of a man"
    assert caption(person, ("age",)) == "a drawing of a young person"


def test_every_word_is_one_token_and_the_longest_caption_fits(tmp_path):
    tokenizer = models.tokenizer(tmp_path)
    for word in vocabulary():
        assert tokenizer.tokenize(word) == [f"{word}</w>"], word
    longest = max(
        len(tokenizer(caption(Scene("occupation", name, style, context, "female", tone, "young"), names)).input_ids)
        for name in OCCUPATIONS
        for style in STYLES
        for context in CONTEXTS
        for tone in ("medium",)
        for names in [tuple(a.name for a in ATTRIBUTES)]
    )
    assert longest <= models.LENGTH
    assert len(tokenizer.tokenize("xylophone")) > 1
