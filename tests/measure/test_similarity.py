"""CLIP-T, CLIP-I and FID against plain formulas; what is a pair, and which prompt an image belongs to."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from fairnb.errors import UserError
from fairnb.files import write_json
from fairnb.measure.generate import PLAN
from fairnb.measure.images import load_image
from fairnb.measure.similarity import (
    fid,
    image_features,
    image_set,
    mean_image_similarity,
    paired,
    prompt_similarity,
    variety,
)
from fairnb.vision.encoders import load_clip
from tests.conftest import MINI


@pytest.fixture(scope="module")
def clip():
    torch.set_num_threads(1)
    return load_clip(MINI / "clip")


def draw(folder, prompts: list[str] | None, images: int = 2, seed: int = 0, ids=(0, 1)) -> None:
    """Random pictures of two prompts, with a plan if the prompts are told."""
    rng = np.random.default_rng(seed)
    for number in ids:
        (folder / f"prompt_{number}").mkdir(parents=True)
        for index in range(images):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"prompt_{number}" / f"img_{index}.png")
    if prompts:
        rows = [{"prompt_id": number, "prompt": text} for number, text in zip(ids, prompts, strict=True)]
        rows = [row | {"occupation": None, "split": "test"} for row in rows]
        write_json(folder / PLAN, {"prompts": rows, "images": images, "seed": seed})


def test_fid_is_the_plain_formula():
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, (300, 6)), rng.normal(0.3, 1, (200, 6)) @ rng.normal(0, 0.6, (6, 6))
    first, second = (np.cov(each * 6**0.5, rowvar=False) for each in (one, two))
    gap = (one.mean(0) - two.mean(0)) * 6**0.5
    expected = gap @ gap + np.trace(first + second - 2 * sqrtm(first @ second).real)
    tensors = [torch.from_numpy(each).float() for each in (one, two)]
    assert fid(*tensors) == pytest.approx(expected, rel=1e-4)
    assert fid(*tensors[::-1]) == pytest.approx(fid(*tensors), rel=1e-5)
    assert fid(tensors[0], tensors[0]) == pytest.approx(0, abs=1e-6)
    assert fid(tensors[0], tensors[0] + 1) == pytest.approx(36, rel=1e-4)  # a shift by 1 in each of 6, times sqrt(6)
    few = [each[:4] for each in tensors]  # fewer images than numbers: the covariance is singular, the value finite
    first, second = (np.cov(each.numpy() * 6**0.5, rowvar=False) for each in few)
    gap = (few[0].mean(0) - few[1].mean(0)).numpy() * 6**0.5
    expected = gap @ gap + np.trace(first + second) - 2 * sqrtm(first @ second).trace().real
    assert fid(*few) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(UserError, match="FID needs two images at least"):
        fid(tensors[0], tensors[1][:1])


def test_variety_by_hand():
    right, up = torch.eye(2)
    half = (right + up) / 2**0.5
    features = torch.stack([right, right, up, right, half, up])
    apart = 1 - 0.5**0.5
    assert variety(features[:2], ["a", "a"]) == pytest.approx(0, abs=1e-6)
    each = [(0 + 1 + 1) / 3, (apart + 1 + apart) / 3]  # of the prompts a (rows 0, 1, 2) and b (rows 3, 4, 5)
    assert variety(features, ["a", "a", "a", "b", "b", "b"]) == pytest.approx(np.mean(each))
    order = [3, 0, 4, 1, 5, 2]
    assert variety(features[order], ["b", "a"] * 3) == pytest.approx(np.mean(each))
    assert variety(features[:3], ["a", "a", "b"]) == pytest.approx(0, abs=1e-6)  # a single image has no pair
    assert np.isnan(variety(features[:2], ["a", "b"]))


def test_features_do_not_depend_on_batches_and_sizes(clip, tmp_path):
    draw(tmp_path, None)
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "prompt_1" / "wide.png")
    files = image_set(tmp_path).file.tolist()
    alone = torch.cat([clip.image_features(load_image(file)[None]) for file in files])
    torch.testing.assert_close(image_features(clip, files), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(image_features(clip, files, batch=1), alone, atol=1e-5, rtol=0)


def test_clip_t_and_clip_i_are_mean_cosines(clip, tmp_path):
    texts = ["a photo of a doctor", "a photo of a chef"]
    draw(tmp_path / "a", texts)
    draw(tmp_path / "b", None, seed=1)
    table = image_set(tmp_path / "a")
    assert table.prompt.tolist() == [texts[0]] * 2 + [texts[1]] * 2 and table.seed.tolist() == [0] * 4
    features = image_features(clip, table.file)
    expected = [features[i] @ clip.text_features([text])[0] for i, text in enumerate(table.prompt)]
    assert prompt_similarity(clip, features, table.prompt.tolist()) == pytest.approx(float(sum(expected) / 4), abs=1e-6)
    other = image_features(clip, image_set(tmp_path / "b").file)
    whole = mean_image_similarity(clip, tmp_path / "a", tmp_path / "b")
    assert whole == pytest.approx((features * other).sum(1).mean().item(), abs=1e-6)
    (tmp_path / "b" / "prompt_1" / "img_0.png").unlink()
    with pytest.raises(UserError, match="a/prompt_1/img_0.png has no counterpart in .*b: generate as many"):
        mean_image_similarity(clip, tmp_path / "a", tmp_path / "b")
    draw(tmp_path / "c", texts, seed=1)
    with pytest.raises(UserError, match="cannot be compared: .* is of another prompt or seed"):
        mean_image_similarity(clip, tmp_path / "a", tmp_path / "c")


def test_prompts_of_a_peers_folder_go_by_its_number(tmp_path):
    draw(tmp_path, None, images=1, ids=(2, 10))
    assert image_set(tmp_path).prompt.isna().all()
    texts = [f"text {number}" for number in range(11)]
    assert sorted(image_set(tmp_path, texts).prompt) == ["text 10", "text 2"]
    with pytest.raises(UserError, match="prompt_10/img_0.png belongs to none of the 10 prompts"):
        image_set(tmp_path, texts[:10])
    (tmp_path / "prompt_2").rename(tmp_path / "doctors")
    with pytest.raises(UserError, match="doctors/img_0.png belongs to none of the 11 prompts"):
        image_set(tmp_path, texts)


def test_pairs_are_of_the_same_prompt_and_noise(tmp_path):
    texts = ["a photo of a doctor", "a photo of a chef"]
    for name, prompts, seed in (
        ("a", texts, 0),
        ("b", texts, 0),
        ("c", texts, 1),
        ("d", texts[::-1], 0),
        ("e", None, 0),
    ):
        draw(tmp_path / name, prompts, seed=seed, images=2 if name != "b" else 1)
    sets = {name: image_set(tmp_path / name) for name in "abcde"}
    pairs, why = paired(sets["a"], sets["b"])
    assert pairs[["row", "row_other"]].values.tolist() == [[0, 0], [2, 1]] and why == "of the same prompt and noise"
    for name in "cd":
        pairs, why = paired(sets["a"], sets[name])
        assert pairs.empty and "prompt_0/img_0.png is of another prompt or seed than its counterpart" in why
    pairs, why = paired(sets["a"], sets["e"])
    assert len(pairs) == 4 and "nothing tells that they come from the same noise" in why
    for name in ("prompt_0", "prompt_1"):
        (tmp_path / "e" / name).rename(tmp_path / "e" / f"{name}0")
    assert paired(sets["b"], image_set(tmp_path / "e"))[0].key.tolist() == [(0, 0)]
    draw(tmp_path / "audit" / "images", texts)
    assert paired(image_set(tmp_path / "audit"), image_set(tmp_path / "audit" / "images"))[0].shape[0] == 4
