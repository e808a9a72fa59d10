"""The planted truth: what the captions say, and how often."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from fairnb.diffusion.pipeline import check_words
from fairnb.errors import UserError
from fairnb.files import root
from fairnb.miniworld import models
from fairnb.miniworld.build import SEED
from fairnb.miniworld.draw import clothes, hats, tools_desk, tools_home, tools_outdoors
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
    draw_person,
    draw_scene,
    names_attribute,
    shares,
    tones,
    vocabulary,
    world,
)
from fairnb.prompts.sets import load_prompt_set


def test_the_bias_is_near_stable_diffusions_and_goes_both_ways():
    assert 0.67 <= world()["mean_gender_bias"] <= 0.80
    women = [line["women"] for line in OCCUPATIONS.values()]
    assert min(women) < 0.1 and max(women) > 0.9 and sum(abs(2 * share - 1) < 0.3 for share in women) >= 10
    assert 0.35 < np.mean([share > 0.5 for share in women]) < 0.65
    for name in OCCUPATIONS:
        for classes in shares(name).values():
            assert sum(classes.values()) == pytest.approx(1)


def test_names_agree_with_drawing_prompts_and_file():
    assert set(OUTFITS) - {"person"} == set(OCCUPATIONS)
    assert set(SCENES) - {None} == set(CONTEXTS) and set(DRAWN) == set(SUBJECTS)
    prompts = load_prompt_set(root() / "data" / "prompts" / "mini.json")
    stored = json.loads((root() / "data" / "mini-sd" / "world.json").read_text())
    assert stored == {**world(), "seed": SEED}
    assert sorted(prompts.all()) == sorted(OCCUPATIONS) and len(OCCUPATIONS) == 208
    assert [len(prompts.split(name)) for name in ("train", "validation", "test")] == [160, 16, 32]
    assert set(prompts.contents) == set(SUBJECTS) and set(prompts.contexts) == set(CONTEXTS)
    assert set(load_prompt_set(root() / "data" / "prompts" / "smoke.json").all()) <= set(OCCUPATIONS)


def test_no_two_occupations_share_clothes_hat_and_tool():
    lines = [line for line in OCCUPATIONS.values() if line["clothes"]]
    assert len({(line["clothes"], line["hat"], line["tool"]) for line in lines}) == len(lines) == 176


def test_every_part_of_the_wardrobe_is_worn():
    parts = {"clothes": clothes.CLOTHES, "hat": hats.HATS, "behind": hats.BEHIND}
    parts["tool"] = tools_desk.TOOLS | tools_home.TOOLS | tools_outdoors.TOOLS
    for kind, known in parts.items():
        assert set(known) <= {line[kind] for line in OCCUPATIONS.values()}, kind


def test_tones_may_differ_between_women_and_men():
    rng = np.random.default_rng(0)
    people = [draw_person(rng, "housekeeper") for _ in range(4000)]
    women, men = ([p["skin_tone"] for p in people if p["gender"] == gender] for gender in ("female", "male"))
    planted = tones("housekeeper")
    assert planted["female"] != planted["male"]
    assert women.count("brown") / len(women) == pytest.approx(planted["female"]["brown"], abs=0.03)
    assert men.count("light") / len(men) == pytest.approx(planted["male"]["light"], abs=0.12)
    whole = [person["skin_tone"] for person in people]
    for name, share in shares("housekeeper")["skin_tone"].items():
        assert whole.count(name) / len(whole) == pytest.approx(share, abs=0.03)


def test_a_word_that_the_model_never_saw_is_refused_with_near_ones(tmp_path):
    pipe = SimpleNamespace(tokenizer=models.tokenizer(tmp_path))
    check_words(pipe, ["", "a photo of an old dark-skinned female police officer by the sea"])
    with pytest.raises(UserError, match=r"the word 'astronomr' of 'a photo of an astronomr' \(near .*: astronomer"):
        check_words(pipe, ["a photo of an astronomr"])
    pipe.tokenizer.save_pretrained(tmp_path / "saved")
    pipe.tokenizer = type(pipe.tokenizer).from_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="the word 'xylophone' of"):
        check_words(pipe, ["a photo of a xylophone"])


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
    assert names_attribute(caption(scene, ("skin_tone",))) and names_attribute(caption(person, ("gender",)))
    assert not names_attribute(caption(scene, ())) and not names_attribute("a photo of a cup")


def test_the_tokenizer_is_the_same_each_time(tmp_path):
    vocabularies = [models.tokenizer(tmp_path / str(number)).get_vocab() for number in range(4)]
    assert all(each == vocabularies[0] for each in vocabularies)


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
