import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairnb.errors import UserError
from fairnb.files import root
from fairnb.prompts.sets import SPLITS, evenly, load_prompt_set, prompt_rows
from fairnb.prompts.templates import draw_words, name_class, photo_of

GOOD = {
    "occupations": {"train": ["doctor", "nurse"], "validation": ["waiter"], "test": ["miner"]},
    "contents": ["house"],
    "contexts": ["at night"],
}


@pytest.mark.parametrize(
    ("phrase", "prompt"),
    [
        ("doctor", "a photo of a doctor"),
        ("old pilot", "a photo of an old pilot"),
        ("astronaut", "a photo of an astronaut"),
        ("university teacher", "a photo of a university teacher"),
        ("honest judge", "a photo of an honest judge"),
    ],
)
def test_photo_of_uses_the_right_article(phrase: str, prompt: str) -> None:
    assert photo_of(phrase) == prompt


def test_photo_of_takes_a_style() -> None:
    assert photo_of("cup", "oil painting") == "an oil painting of a cup"


SIZES = [("mini", (160, 16, 32)), ("smoke", (20, 4, 8)), ("sd15", (28, 4, 8)), ("sd15-large", (699, 16, 51))]


@pytest.mark.parametrize(("name", "sizes"), SIZES)
def test_shipped_sets_load_and_have_disjoint_splits(name: str, sizes: tuple[int, ...]) -> None:
    prompts = load_prompt_set(root() / "data" / "prompts" / f"{name}.json")
    assert tuple(len(prompts.split(split)) for split in SPLITS) == sizes
    assert len(set(prompts.all())) == sum(sizes)
    assert len(prompts.contents) >= 8 and len(prompts.contexts) >= 8


def _changed(**changes: object) -> str:
    return json.dumps(GOOD | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("doctor, nurse", "not JSON"),
        ("[]", "valid dictionary"),
        (_changed(contents=[]), "contents is empty"),
        (_changed(contents=["house", "house"]), "'house' twice"),
        (_changed(contents=["house", 3]), "contents.1"),
        (_changed(contents=[" "]), "blank"),
        (_changed(colours=["red"]), "colours"),
        (_changed(occupations={"train": ["doctor"], "validation": ["nurse"]}), "exactly the splits"),
        (_changed(occupations={"train": ["a"], "validation": ["b"], "test": ["a"]}), "'a' is in two splits"),
    ],
)
def test_a_bad_file_is_one_sentence_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_prompt_set(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json"):
        load_prompt_set(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bytes.json"):
        load_prompt_set(tmp_path / "bytes.json")


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(GOOD))
    prompts = load_prompt_set(path)
    with pytest.raises(UserError, match="unknown split 'all'"):
        prompts.split("all")


def test_prompt_ids_do_not_depend_on_the_splits_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(GOOD))
    prompts = load_prompt_set(path)
    assert prompt_rows(prompts, "test").to_dict("records") == [
        {"prompt_id": 3, "prompt": "a photo of a miner", "occupation": "miner", "split": "test"}
    ]
    explicit = prompt_rows(prompts, "train", "validation", word="old")
    assert explicit.prompt_id.tolist() == [0, 1, 2]
    assert explicit.prompt[0] == "a photo of an old doctor"


def test_a_class_is_named_before_the_subject() -> None:
    assert name_class("a photo of a pilot", "female") == "a photo of a female pilot"
    long = "a drawing of an old person at night"
    assert name_class(long, "Asian male") == "a drawing of an Asian male old person at night"
    assert name_class("a photo of a pilot", "") == "a photo of a pilot"
    for wrong in ("pilot", "a photo of pilots", "a photo of academics", "a photo of a "):
        with pytest.raises(UserError, match="no class can be named"):
            name_class(wrong, "old")


def test_other_kinds_of_prompts() -> None:
    words = load_prompt_set(root() / "data" / "prompts" / "mini.json")
    kinds = ["occupations", *words.kinds]
    assert words.prompts("test") == [photo_of(name) for name in words.split("test")]
    assert words.prompts("train", kinds)[160:162] == words.kinds[kinds[1]]["train"][:2]
    often = dict.fromkeys(kinds, 1) | {kinds[1]: 6}  # oversampled in training, and there alone
    more = len(words.prompts("train", often)) - len(words.prompts("train", kinds))
    assert more == 5 * len(words.kinds[kinds[1]]["train"])
    assert words.prompts("test", often) == words.prompts("test", kinds)
    rows = prompt_rows(words, "test", "train", kinds=kinds[1:], word="old")
    assert rows.prompt_id.is_unique and rows.prompt_id.min() >= len(words.all()) and set(rows.occupation) == {None}
    assert rows.split.tolist() == sorted(rows.split) and rows.prompt.str.contains(" of an old ").all()
    with pytest.raises(UserError, match="no prompts of kind 'sports': use occupations, styled occupations"):
        words.prompts("test", ["sports"])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"moods": {"train": ["a photo of a happy person"]}}, "kinds.moods needs"),
        ({"moods": dict.fromkeys(SPLITS, ["a photo of a happy person"])}, "hold 'a photo of a happy person' twice"),
        ({"moods": {"train": ["happy person"], "validation": [], "test": []}}, "no class can be named"),
    ],
)
def test_wrong_kinds_are_refused(tmp_path: Path, kinds: dict, message: str) -> None:
    content = json.loads((root() / "data" / "prompts" / "mini.json").read_text()) | {"kinds": kinds}
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_prompt_set(tmp_path / "own.json")


def test_words_are_drawn_with_their_shares_and_stay_the_same():
    rows = prompt_rows(load_prompt_set(root() / "data" / "prompts" / "mini.json"), "test")
    shares = {"gender": [0.25, 0.75], "age": [0.5, 0.5]}
    drawn = draw_words(rows, shares, 400, seed=0)
    words = drawn.words[0]
    assert len(words) == 400 and set(words) == {"young female", "young male", "old female", "old male"}
    assert 0.65 < np.mean([each.endswith(" male") for each in words]) < 0.85
    assert drawn.words.tolist() == draw_words(rows, shares, 400, seed=0).words.tolist()
    assert drawn.words[0] != drawn.words[1] and drawn.words[0] != draw_words(rows, shares, 400, seed=1).words[0]


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (3, [0, 4, 9]), (10, list(range(10))), (99, list(range(10)))])
def test_some_rows_evenly_spaced(count, chosen):
    assert evenly(pd.DataFrame({"prompt_id": range(10)}), count).prompt_id.tolist() == chosen


def test_a_set_with_fewer_train_occupations_keeps_the_rest():
    words = load_prompt_set(root() / "data" / "prompts" / "sd15.json")
    few = words.fewer(3)
    assert few.split("train") == [words.split("train")[at] for at in (0, 14, 27)]
    assert few.split("test") == words.split("test") and few.contents == words.contents
    assert words.fewer(999) == words
