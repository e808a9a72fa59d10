"""Loading: the shipped model, and every folder that is not one."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline

from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.pipeline import encode_prompts, load_pipeline, pick_device, save_pipeline
from fairnb.errors import UserError
from tests.conftest import MINI


def test_mini_sd_loads_without_fairnb_and_draws():
    pipe = StableDiffusionPipeline.from_pretrained(MINI)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of a pilot", num_inference_steps=2).images[0].size == (64, 64)


def test_loaded_frozen_and_encoded_as_the_pipeline_does():
    pipe = load_pipeline(MINI, device="cpu")
    assert not any(w.requires_grad for part in (pipe.unet, pipe.vae, pipe.text_encoder) for w in part.parameters())
    expected, _ = pipe.encode_prompt("a photo of a pilot", "cpu", 1, False)
    torch.testing.assert_close(encode_prompts(pipe, ["a photo of a pilot"]), expected)
    assert pick_device("cpu").type == "cpu"


def test_fingerprint_sees_one_changed_weight():
    unet = load_pipeline(MINI, device="cpu").unet
    before = fingerprint(unet)
    with torch.no_grad():
        unet.conv_in.weight.view(-1)[0] += 1e-4
    assert fingerprint(unet) != before


def test_bad_model_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        load_pipeline(tmp_path / "missing")
    with pytest.raises(UserError, match="model_index.json is missing"):
        load_pipeline(tmp_path)
    for index, says in (
        ('{"_class_name": "StableDiffusionXLPipeline"}', "is a StableDiffusionXLPipeline"),
        ("[", "damaged"),
    ):
        (tmp_path / "model_index.json").write_text(index)
        with pytest.raises(UserError, match=says):
            load_pipeline(tmp_path)
    copy = tmp_path / "cut"
    shutil.copytree(MINI, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="could not be loaded"):
        load_pipeline(copy)


def test_a_hub_id_without_network_says_what_to_download(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download some/model --local-dir models/model") as caught:
        load_pipeline("some/model")
    assert "\n" not in str(caught.value)


def test_a_saved_pipeline_is_whole_or_not_there(tmp_path, monkeypatch):
    pipe = load_pipeline(MINI, device="cpu")
    assert fingerprint(load_pipeline(save_pipeline(pipe, tmp_path / "a" / "model")).unet) == fingerprint(pipe.unet)

    def full(folder, **options):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipe, "save_pretrained", full)
    with pytest.raises(UserError, match="cannot be written"):
        save_pipeline(pipe, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
