"""mini-clip: its features against transformers' own, and pictures against their captions."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from fairnb.errors import UserError
from fairnb.measure.similarity import kid
from fairnb.miniworld.draw.portrait import portrait
from fairnb.prompts.templates import photo_of
from fairnb.vision.encoders import load_clip, load_dino
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
    with pytest.raises(UserError, match="the CLIP model .*"):
        load_clip(tmp_path)


def test_dino_features_are_normalised_and_differentiable(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(image_size=64, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    dino = load_dino(tmp_path)
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        plain = model(pixel_values=(images / 2 + 0.5 - mean) / std).last_hidden_state[:, 0]
    features = dino.image_features(images)
    torch.testing.assert_close(features, plain / plain.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    features[0, 0].backward()
    assert images.grad.abs().sum() > 0 and dino.image_features(torch.rand(1, 3, 40, 40)).shape == (1, 32)
    with pytest.raises(UserError, match="no DINO model at"):
        load_dino(tmp_path / "none")


def test_kid_is_small_for_equal_sets_and_grows_with_their_distance():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(200, 16, generator=generator) for _ in range(2))
    same, spread = kid(one, two, size=100, seed=0)
    assert abs(same) < 3 * spread and kid(one, two, size=100, seed=0) == (same, spread)
    assert kid(one + 0.5, two, size=100, seed=0)[0] > kid(one + 0.2, two, size=100, seed=0)[0] > 3 * spread
    with pytest.raises(UserError, match="a subset of 300 cannot be drawn from 200"):
        kid(one, two, size=300, seed=0)


def test_an_encoder_whose_weights_are_missing_is_refused(tmp_path):
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = weights.pop("layernorm.weight")
    assert lost.shape == (16,)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="the DINO model .* is not trained: its files hold no layernorm.weight"):
        load_dino(tmp_path)


def test_an_encoders_own_pixel_statistics_are_followed(tmp_path):
    network = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224))
    network.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    assert load_dino(tmp_path).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    path.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}')
    dino, images = load_dino(tmp_path), torch.rand(1, 3, 224, 224) * 2 - 1
    pixels = images * torch.tensor([1, 2, 1]).view(3, 1, 1)
    expected = torch.nn.functional.normalize(network(pixels).last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(dino.image_features(images), expected, atol=1e-4, rtol=1e-3)
    for content in ('{"image_mean": null}', '{"image_std": [0, 1, 1]}', "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match="preprocessor_config.json has no image_mean and image_std"):
            load_dino(tmp_path)
