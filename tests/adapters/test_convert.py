"""Any adapter's file loads by what it is; FFD's released layout is converted and acts as the same numbers do here."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.convert import convert
from fairnb.adapters.load import load_adapter
from fairnb.adapters.lora import LoRA
from fairnb.adapters.model_cards import describe
from fairnb.adapters.prefix import PrefixTokens
from fairnb.diffusion.pipeline import load_pipeline
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from tests.adapters.test_lora import PROMPT, changed, drawn, foreign, kohyas
from tests.conftest import MINI, build_tiny


def released(pipe, lora, folder):
    """The factors of a LoRA in the layout of FFD's files: one for the text encoder, one for the U-Net."""
    text, unet = {}, {}
    lora.save(folder / "own.safetensors", {})
    for name, value in load_file(folder / "own.safetensors").items():
        part, _, path = name.partition(".")
        layer, factor = path.removesuffix(".weight").rsplit(".", 1)
        end = {"lora_A": "down", "lora_B": "up"}[factor] + ".weight"
        if part == "text_encoder":
            text[f"{layer}.lora_linear_layer.{end}"] = value
        else:
            layer = layer.removesuffix(".0") if layer.endswith("to_out.0") else layer
            attention, projection = layer.rsplit(".", 1)
            unet[f"{attention}.processor.{projection}_lora.{end}"] = torch.nn.Parameter(value)
    torch.save(text, folder / "text_encoder_lora_EMA.pth")
    torch.save(unet, folder / "unet_lora.pth")
    return folder / "text_encoder_lora_EMA.pth", folder / "unet_lora.pth"


def test_released_loras_act_here_and_in_plain_diffusers(tiny_pipe, tmp_path):
    pipe, plain = tiny_pipe(), tiny_pipe()
    lora = changed(pipe, ("text_encoder", "unet"))
    files = released(pipe, lora, tmp_path)
    keys = torch.load(files[0], weights_only=True).keys() | torch.load(files[1], weights_only=True).keys()
    assert "text_model.encoder.layers.1.mlp.fc2.lora_linear_layer.up.weight" in keys
    assert any(key.endswith("attn2.processor.to_out_lora.down.weight") for key in keys)
    base = drawn(pipe)
    lora.apply(pipe)
    expected = drawn(pipe)
    lora.remove(pipe)
    convert(files, tmp_path / "both.safetensors")
    load_adapter(tmp_path / "both.safetensors", pipe).apply(pipe)
    torch.testing.assert_close(drawn(pipe), expected)
    plain.load_lora_weights(tmp_path, weight_name="both.safetensors")
    torch.testing.assert_close(drawn(plain), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, base, atol=1e-3)


def test_released_prefix_tokens_act_here_and_in_plain_diffusers(tiny_pipe, tmp_path):
    pipe, plain = tiny_pipe(), tiny_pipe()
    plain.tokenizer = copy.deepcopy(plain.tokenizer)
    table = torch.cat([torch.zeros(1, 32), 0.3 * torch.randn(5, 32)])
    state = {"token_embedding.weight": table, "position_embedding.weight": torch.randn(77, 32)}
    torch.save({**state, "position_ids": torch.arange(77)[None]}, tmp_path / "prefix_embedding_EMA.pth")
    convert([tmp_path / "prefix_embedding_EMA.pth"], tmp_path / "prefix.safetensors")
    prefix = load_adapter(tmp_path / "prefix.safetensors", pipe)
    assert torch.equal(prefix.parameters()[0], table[1:])
    base = drawn(pipe)
    prefix.apply(pipe)
    assert not torch.allclose(drawn(pipe), base, atol=1e-3)
    plain.load_textual_inversion(tmp_path, weight_name="prefix.safetensors")
    plain_prompt = plain.maybe_convert_prompt(f"<p1> {PROMPT}", plain.tokenizer)
    named = sample(plain, plain_prompt, noise(plain, PROMPT, [0, 1], 0), steps=3, guidance_scale=3.0)
    torch.testing.assert_close(named, drawn(pipe), atol=1e-5, rtol=1e-5)


def test_files_are_told_apart_by_what_they_hold(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    for adapter in (
        BiasNeurons(pipe.unet, {"conv_out.weight": torch.arange(5)}),
        LoRA(pipe, 2, ("unet",)),
        PrefixTokens(pipe, 3),
    ):
        adapter.save(tmp_path / "it.safetensors", {"updates": 3})
        loaded = load_adapter(tmp_path / "it.safetensors", pipe)
        assert type(loaded) is type(adapter) and loaded.metadata == {"updates": 3}


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_foreign_and_harmful_files_are_refused(tmp_path, capsys):
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({}, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    torch.save({"token_embedding.weight": torch.zeros(6, 8)}, tmp_path / "prefix.pth")
    key = "text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight"
    torch.save({key: torch.zeros(2, 8), key.replace("down", "up"): torch.zeros(8, 2)}, tmp_path / "lora.pth")
    torch.save({key: torch.zeros(2, 8)}, tmp_path / "half.pth")
    torch.save({"conv_in.weight": torch.zeros(2), "conv_in.bias": torch.zeros(2)}, tmp_path / "unet.pth")
    cases = {
        ("evil.pth",): "loaded safely",
        ("missing.pth",): "loaded safely",
        ("cut.pth",): "loaded safely",
        ("list.pth",): "loaded safely",
        ("other.pth",): "no LoRA of a Stable Diffusion: it holds layer.weight",
        ("half.pth",): "lora_B.weight is missing",
        ("unet.pth",): "is a whole U-Net, which needs its base",
        ("empty.pth",): "holds no weights",
        ("prefix.pth", "lora.pth"): "two adapters",
    }
    for names, message in cases.items():
        with pytest.raises(UserError, match=message):
            convert([tmp_path / name for name in names], tmp_path / "out.safetensors")
    assert "code ran" not in capsys.readouterr().out and not (tmp_path / "out.safetensors").exists()


def test_a_file_for_another_model_is_refused(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    save_file({"<p1>": torch.zeros(5, 8)}, tmp_path / "prefix.safetensors")
    with pytest.raises(UserError, match=r"needs one tensor \(count, 32\)"):
        load_adapter(tmp_path / "prefix.safetensors", pipe)
    torch.save({"token_embedding.weight": torch.zeros(6, 8)}, tmp_path / "lora.pth")
    with pytest.raises(UserError, match="fairnb convert"):
        load_adapter(tmp_path / "lora.pth", pipe)
    with pytest.raises(UserError, match="loaded safely"):
        load_adapter(tmp_path / "missing.pth", pipe)


def test_the_command_converts(tmp_path):
    torch.save({"token_embedding.weight": torch.randn(6, 8)}, tmp_path / "prefix.pth")
    command = [sys.executable, "-m", "fairnb", "convert", tmp_path / "prefix.pth", "--out", tmp_path / "p.safetensors"]
    subprocess.run(command, check=True, capture_output=True)
    assert load_file(tmp_path / "p.safetensors")["<p1>"].shape == (5, 8)


def test_show_says_what_is_in_them(tiny_pipe, tmp_path):
    LoRA(tiny_pipe(), 2, ("unet",)).save(tmp_path / "lora.safetensors", {"updates": 3})
    PrefixTokens(tiny_pipe(), 5).save(tmp_path / "prefix.safetensors", {"target": {"gender": [0.5, 0.5]}})
    lora, prefix = (describe(tmp_path / f"{name}.safetensors") for name in ("lora", "prefix"))
    assert "LoRA of rank 2 in " in lora and " layers of unet; " in lora and lora.endswith("updates: 3")
    assert "prefix tokens, 5 x 32; 160 numbers" in prefix and "target: gender 0.5 / 0.5" in prefix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_whole_unet_becomes_the_neurons_it_changed(tiny_pipe, tmp_path, dtype, prefix):
    pipe, other = tiny_pipe(), tiny_pipe()
    at = torch.tensor([1, 7, 30])
    with torch.no_grad():
        for name in ("conv_in.weight", "mid_block.attentions.0.proj_in.weight"):
            other.unet.get_parameter(name).view(-1)[at] += 0.3
    state = {prefix + name: weight.to(dtype) for name, weight in other.unet.state_dict().items()}
    torch.save(state, tmp_path / "unet_49.pth")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "unet.safetensors")
    base = drawn(pipe)
    for path in (tmp_path / "unet_49.pth", tmp_path / "unet.safetensors"):
        adapter = load_adapter(path, pipe)
        assert sum(map(len, adapter.parameters())) == 6
        adapter.apply(pipe)
        torch.testing.assert_close(drawn(pipe), drawn(other), atol=1e-2, rtol=1e-2)
        adapter.apply(pipe, 0.0)
        assert torch.equal(drawn(pipe), base)
    adapter.save(tmp_path / "patch.safetensors", {})
    assert sum(map(len, load_adapter(tmp_path / "patch.safetensors", pipe).parameters())) == 6


def test_a_whole_unet_of_another_model_or_this_one_is_refused(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    torch.save(pipe.unet.state_dict(), tmp_path / "same.pth")
    with pytest.raises(UserError, match="this very U-Net"):
        load_adapter(tmp_path / "same.pth", pipe)
    torch.save(build_tiny(tmp_path, width=48).unet.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"another model: .* is \(16, 48\) there and \(16, 32\) in this one"):
        load_adapter(tmp_path / "other.pth", pipe)


def test_loras_and_embeddings_of_other_tools_are_converted(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    tensors, _ = kohyas(foreign(pipe, "kohya"), (1, 3))
    torch.save(tensors, tmp_path / "kohya.pt")
    save_file(tensors, tmp_path / "kohya.safetensors")
    convert([tmp_path / "kohya.pt"], tmp_path / "converted.safetensors")
    assert re.search("LoRA of rank 4 in .* layers of text_encoder and unet;", describe(tmp_path / "kohya.safetensors"))
    drawings = []
    for name in ("kohya", "converted"):
        adapter = load_adapter(tmp_path / f"{name}.safetensors", pipe)
        adapter.apply(pipe)
        drawings.append(drawn(pipe))
        adapter.remove(pipe)
    torch.testing.assert_close(*drawings, atol=1e-5, rtol=1e-5)
    torch.save({"<style>": torch.randn(32)}, tmp_path / "learned_embeds.bin")
    convert([tmp_path / "learned_embeds.bin"], tmp_path / "style.safetensors")
    assert load_adapter(tmp_path / "style.safetensors", pipe).parameters()[0].shape == (1, 32)


def test_the_shipped_patch_fits_in_every_precision():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        load_adapter(MINI / "patches" / "gender.safetensors", load_pipeline(MINI, device="cpu", dtype=dtype))


def test_a_patch_of_an_older_version_says_what_it_needs(mini, tmp_path):
    path = tmp_path / "old.safetensors"
    with safe_open(MINI / "patches" / "gender.safetensors", framework="pt") as file:
        about = {key: value for key, value in file.metadata().items() if key not in ("sketch", "dtype")}
    save_file(load_file(MINI / "patches" / "gender.safetensors"), path, metadata=about)
    load_adapter(path, mini)
    with pytest.raises(UserError, match="older version, which knows its base in float32 alone"):
        load_adapter(path, mini.to(torch.bfloat16))
