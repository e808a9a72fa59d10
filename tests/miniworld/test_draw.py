"""The portraits: reproducible, varied, and faces for MTCNN in every class."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from fairnb.measure.photographs import read_captioned
from fairnb.miniworld.dataset import draw_photographs
from fairnb.miniworld.draw import face, portrait, scenes, wardrobe

CONTEXTS = (None, *scenes.CONTEXTS)
BASE = dict(occupation="chef", gender="female", skin_tone="medium", age="young", context=None, style="photo")


def paint(seed=0, **changes):
    return portrait.portrait(**(BASE | changes), rng=np.random.default_rng(seed))


def distance(one, two):
    return np.abs(np.asarray(one, float) - np.asarray(two, float)).mean()


def test_is_a_function_of_arguments_and_rng():
    for style in portrait.STYLES:
        assert distance(paint(3, style=style), paint(3, style=style)) == 0
    assert distance(paint(3), paint(4)) > 3
    rng = np.random.default_rng(5)
    assert distance(portrait.portrait(**BASE, rng=rng), portrait.portrait(**BASE, rng=rng)) > 3


@pytest.mark.parametrize("size", [64, 96])
def test_size_and_mode(size):
    rng = np.random.default_rng(0)
    for img in (portrait.portrait(**BASE, rng=rng, size=size), portrait.subject("cup", None, "photo", rng, size=size)):
        assert img.size == (size, size) and img.mode == "RGB"


def test_every_occupation_context_style_and_subject_draws_and_differs():
    for pictures in (
        [paint(occupation=name) for name in wardrobe.OUTFITS],
        [paint(context=name) for name in CONTEXTS],
        [paint(style=name) for name in portrait.STYLES],
        [portrait.subject(name, None, "photo", np.random.default_rng(0)) for name in scenes.SUBJECTS],
    ):
        closest = min(distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
        assert closest > 2


@pytest.mark.parametrize(
    "change", [{"gender": "male"}, {"age": "old"}, {"skin_tone": "light"}, {"skin_tone": "dark"}, {"style": "drawing"}]
)
def test_a_change_of_class_changes_the_picture(change):
    assert np.mean([distance(paint(seed), paint(seed, **change)) for seed in range(4)]) > 1.5


def test_a_change_of_gender_leaves_the_background_as_it_was():
    one, two = (np.asarray(paint(7, gender=gender, context="in a city"), float) for gender in face.GENDERS)
    assert np.abs(one - two)[:28, [*range(8), *range(56, 64)]].mean() < 2


def found(net, pictures):
    double = [picture.resize((128, 128), Image.Resampling.BILINEAR) for picture in pictures]
    chances = net.detect(double)[1]
    return np.array([max((p for p in row if p is not None), default=0) >= 0.9 for row in chances])


def test_mtcnn_finds_the_people_and_nothing_in_things(record_property):
    facenet = pytest.importorskip("facenet_pytorch")
    net = facenet.MTCNN(keep_all=True, min_face_size=16, device="cpu")
    rng, names = np.random.default_rng(0), list(wardrobe.OUTFITS)
    classes = list(product(face.GENDERS, face.TONES, face.AGES)) * 10
    pictures = [
        portrait.portrait(names[i * 7 % len(names)], *who, CONTEXTS[i % 9], portrait.STYLES[(i // 9) % 3], rng)
        for i, who in enumerate(classes)
    ]
    hits = found(net, pictures)
    for tone in face.TONES:
        rate = hits[[who[1] == tone for who in classes]].mean()
        record_property(f"found {tone}", float(rate))
        print(f"found {tone}: {rate:.3f}")
        assert rate >= 0.9
    assert hits.mean() >= 0.95
    things = [
        portrait.subject(name, CONTEXTS[(i + j) % 9], portrait.STYLES[i % 3], rng)
        for j, name in enumerate(scenes.SUBJECTS)
        for i in range(6)
    ]
    assert found(net, things).mean() <= 0.035


def test_photographs_are_a_captioned_folder_with_the_planted_shares(tmp_path):
    photos = read_captioned(draw_photographs(tmp_path / "one", ["firefighter", "nurse"], 30, seed=0))
    assert photos.activity.value_counts().to_dict() == {"firefighter": 30, "nurse": 30}
    assert set(photos.caption) == {"a photo of a firefighter", "a photo of a nurse"}
    draw_photographs(tmp_path / "two", ["firefighter", "nurse"], 30, seed=0)
    draw_photographs(tmp_path / "three", ["firefighter", "nurse"], 30, seed=1)
    first = photos.path[0]
    same, other = (Image.open(tmp_path / folder / first) for folder in ("two", "three"))
    assert distance(Image.open(tmp_path / "one" / first), same) == 0 < distance(same, other)
