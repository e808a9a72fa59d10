"""The build: a loop that resumes exactly, a data set that depends on its seed alone, a folder that loads."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from fairnb.errors import UserError
from fairnb.files import read_json, root
from fairnb.miniworld import build, dataset, models
from fairnb.miniworld.quality import text_bias
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.encoders import load_clip

FAST = {"steps": 30, "learning_rate": 1e-2, "ema": 0.9}


def fit(folder, stop_at=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    seen = []

    def loss(rng, generator):
        seen.append(1)
        if stop_at and len(seen) > stop_at:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
        noise = torch.randn(16, 1, generator=generator)
        return (model(inputs) - inputs.sum(1, keepdim=True) - 0.01 * noise).square().mean()

    losses = build.train("line", model, loss, **FAST, folder=folder, seed=3)
    return model, losses


def test_the_loop_learns_and_a_killed_one_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CHECKPOINT_EVERY", 10)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, losses = fit(tmp_path / "whole")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", stop_at=17)
    resumed, again = fit(tmp_path / "killed")
    assert again == losses
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_loss_that_is_not_finite_stops_the_loop(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="the loss is nan at update 0"):
        build.train("nan", model, lambda *_: model.weight.sum() * torch.nan, **FAST, folder=tmp_path, seed=0)


def test_the_whole_build_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD", 60)
    steps = build.Steps(pictures=120, classifier=1, clip=1, vae=1, unet=((1, 1), (1, 3)))
    build.build(tmp_path / "work", tmp_path / "model", steps, "cpu")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of a pilot", num_inference_steps=2).images[0].size == (64, 64)
    assert set(load_classifier(tmp_path / "model" / "guide").classes) == {"gender", "skin_tone", "age"}
    assert len(load_classifier(tmp_path / "model" / "occupation").classes["occupation"]) == 219
    assert load_clip(tmp_path / "model" / "clip").text_features(["a photo of a pilot"]).shape == (1, 96)
    drawn = dataset.draw_dataset(tmp_path / "again", 120, build.SEED, workers=1)
    kept = dataset.draw_dataset(tmp_path / "work" / "portraits", 120, build.SEED)
    assert (drawn.pixels == kept.pixels).all() and drawn.table.equals(kept.table)
    assert drawn.table["face"][drawn.table["kind"] != "subject"].mean() > 0.9


def test_latents_of_mean_0_and_variance_1_still_decode_to_the_same_image():
    torch.manual_seed(0)
    vae = models.vae().eval().requires_grad_(False)
    vae.quant_conv.bias += torch.randn(16)
    images = torch.rand(12, 3, 64, 64) * 2 - 1
    before = vae.encode(images).latent_dist
    seen = vae.decode(before.mean).sample
    mean, deviation = build.standardise(vae, before.mean, before.std)
    after = vae.encode(images).latent_dist
    assert mean.mean((0, 2, 3)).abs().max() < 1e-4 and (mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
    torch.testing.assert_close(after.mean, mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after.std, deviation, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(vae.decode(after.mean).sample, seen, atol=1e-3, rtol=1e-3)
    assert vae.config.scaling_factor == 1


def test_the_shipped_text_encoder_is_the_one_its_card_measured(mini):
    measured = read_json(root() / "data/mini-sd/card.json")["text_states_follow_planted_gender"]
    assert text_bias(mini) == pytest.approx(measured, abs=1e-3) and measured > 0.2  # .07 is chance, of 208 words
