"""CLIP encoders with heads of their own, as one file of weights: loaded whatever the encoder is called in it."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from fairnb.errors import UserError
from fairnb.profiles import Source
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.clip_heads import LABELS, find_clip_heads
from fairnb.vision.encoders import MEAN, STD

RACE = {
    "WMELH": ["White", "Middle Eastern", "Latino_Hispanic"],
    "Black": "Black",
    "Indian": "Indian",
    "Asian": ["East Asian", "Southeast Asian"],
}
GENDER = {"male": "Male", "female": "Female"}


def store(folder: Path, prefix: str = "vision_model.", **heads: int) -> CLIPVisionModel:
    """Write a small encoder with heads of so many outputs as a state dict with `prefix`; return the encoder."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, patch_size=8, image_size=32
    )
    encoder = CLIPVisionModel(config).eval()
    tensors = {prefix + name.removeprefix("vision_model."): value for name, value in encoder.state_dict().items()}
    for name, outputs in (heads or {key: len(names) for key, names in LABELS.items()}).items():
        tensors |= {f"{name}_head.weight": torch.randn(outputs, 128), f"{name}_head.bias": torch.randn(outputs)}
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**processor, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return encoder


@pytest.mark.parametrize("prefix", ["vision_model.", "vision_model.vision_model."])
def test_logits_are_those_of_the_heads_on_the_encoders_output(tmp_path: Path, prefix: str):
    encoder = store(tmp_path / "heads", prefix)
    assert find_clip_heads(tmp_path / "heads") is not None
    judge = load_classifier(Source(model=str(tmp_path / "heads"), labels={"race": RACE, "gender": GENDER}))
    assert judge.classes == {"race": ("WMELH", "Black", "Indian", "Asian"), "gender": ("female", "male")}
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    images.requires_grad_()
    logits = judge(images)
    small = interpolate(images, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    pixels = ((small + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    pooled, tensors = encoder(pixel_values=pixels).pooler_output, load_file(tmp_path / "heads" / "model.safetensors")
    gender = pooled @ tensors["gender_head.weight"].T + tensors["gender_head.bias"]
    race = pooled @ tensors["race_head.weight"].T + tensors["race_head.bias"]
    torch.testing.assert_close(logits["gender"], gender, rtol=1e-3, atol=1e-3)  # Female, Male
    shares = race.softmax(1)
    wanted = torch.stack([shares[:, [6, 4, 3]].sum(1), shares[:, 0], shares[:, 2], shares[:, [1, 5]].sum(1)], 1)
    torch.testing.assert_close(judge.probabilities(images)["race"], wanted.detach(), rtol=1e-3, atol=1e-3)
    logits["race"].sum().backward()
    assert images.grad.abs().max() > 0
    assert judge.features(images).shape == (2, 128)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "declare 'labels' for the attributes"),
        ({"gender": {"male": "Man", "female": "Female"}}, "has no label 'Man'"),
        ({"race": RACE | {"Asian": "East Asian"}}, "label 'Southeast Asian' of .* belongs to no class"),
        ({"skin_tone": {"light": "a", "medium": "b", "brown": "c", "dark": "d"}}, "has no head for 'skin_tone'"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path: Path, labels, says):
    store(tmp_path / "heads")
    with pytest.raises(UserError, match=says):
        load_classifier(Source(model=str(tmp_path / "heads"), labels=labels))


def test_other_files_are_refused_with_a_sentence(tmp_path: Path):
    store(tmp_path / "heads", gender=3)
    with pytest.raises(UserError, match="a head for gender with 3 outputs is unknown"):
        load_classifier(Source(model=str(tmp_path / "heads"), labels={"gender": GENDER}))
    store(tmp_path / "heads")
    path = tmp_path / "heads" / "model.safetensors"
    tensors = load_file(path)
    del tensors["vision_model.encoder.layers.1.mlp.fc2.weight"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=re.escape(f"{path} is no whole vision encoder of CLIP")):
        load_classifier(Source(model=str(tmp_path / "heads"), labels={"gender": GENDER}))
    path.write_bytes(path.read_bytes()[:100])
    assert find_clip_heads(tmp_path / "heads") is None
    with pytest.raises(UserError, match="the classifier .* could not be loaded|cannot be read"):
        load_classifier(Source(model=str(tmp_path / "heads"), labels={"gender": GENDER}))
