"""mini-clip: its features against transformers' own, and pictures against their captions."""

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from fairnb.errors import UserError
from fairnb.miniworld.draw import portrait
from fairnb.prompts import photo_of
from fairnb.semantics import load_clip
from tests.conftest import MINI


def draw(occupations: list[str]):
    rng = np.random.default_rng(3)
    return [portrait(name, "female", "brown", "young", None, "photo", rng) for name in occupations]


def to_tensor(pictures) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 127.5 - 1 for p in pictures])


def test_features_equal_those_of_transformers():
    clip, model = load_clip(MINI / "clip"), CLIPModel.from_pretrained(MINI / "clip", dtype=torch.float32)
    pictures = draw(["chef", "pilot"])
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    pixels = processor(pictures, return_tensors="pt")
    words = CLIPTokenizer.from_pretrained(MINI / "clip")(
        ["a photo of a chef"], padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        output = model(input_ids=words.input_ids, pixel_values=pixels.pixel_values)
    torch.testing.assert_close(clip.image_features(to_tensor(pictures)), output.image_embeds, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.text_features(["a photo of a chef"]), output.text_embeds, atol=1e-4, rtol=0)


def test_pictures_find_their_captions():
    clip, names = load_clip(MINI / "clip"), ["chef", "pilot", "firefighter", "miner", "nurse", "astronaut"]
    similarity = clip.image_features(to_tensor(draw(names))) @ clip.text_features([photo_of(n) for n in names]).T
    assert (similarity.argmax(1) == torch.arange(len(names))).float().mean() >= 5 / 6


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="the CLIP model at"):
        load_clip(tmp_path)
