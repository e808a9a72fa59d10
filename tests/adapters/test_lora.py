"""LoRA: trains in the loop, comes off without a trace, travels to plain diffusers, refuses what does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb.adapters.lora import LoRA, load_lora
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.profiles import load_profile
from fairnb.training.alignment import AlignmentRun
from tests.conftest import MINI, build_tiny

PROMPT = "a photo of a doctor"
PARTS = [("text_encoder",), ("unet",), ("text_encoder", "unet")]


def drawn(pipe):
    return sample(pipe, PROMPT, noise(pipe, PROMPT, [0, 1], 0), steps=3, guidance_scale=3.0)


def changed(pipe, parts, rank=4):
    """A LoRA that changes something."""
    lora = LoRA(pipe, rank, parts)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.add_(0.1 * torch.randn_like(factor))
    return lora


def prints(pipe):
    return fingerprint(pipe.unet), fingerprint(pipe.text_encoder)


@pytest.mark.parametrize("parts", PARTS)
def test_it_starts_as_the_base_and_comes_off_without_a_trace(tiny_pipe, parts):
    pipe = tiny_pipe()
    base, before = drawn(pipe), prints(pipe)
    fresh = LoRA(pipe, 4, parts)
    fresh.apply(pipe)
    torch.testing.assert_close(drawn(pipe), base, atol=1e-5, rtol=1e-5)
    fresh.remove(pipe)
    lora = changed(pipe, parts)
    lora.apply(pipe)
    full = drawn(pipe)
    assert not torch.allclose(full, base, atol=1e-3)
    lora.apply(pipe, 0.5)
    half = drawn(pipe)
    assert not torch.allclose(half, full, atol=1e-4) and not torch.allclose(half, base, atol=1e-4)
    lora.apply(pipe, 1.0)
    assert torch.equal(drawn(pipe), full)
    lora.apply(pipe, 0.0)
    assert torch.equal(drawn(pipe), base) and prints(pipe) == before


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_merging_equals_applying(tiny_pipe, parts, strength):
    pipe, other = tiny_pipe(), tiny_pipe()
    lora = changed(pipe, parts)
    lora.apply(pipe, strength)
    applied = drawn(pipe)
    lora.merge(other, strength)
    torch.testing.assert_close(drawn(other), applied, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("parts", PARTS)
def test_plain_diffusers_reads_the_file(tiny_pipe, tmp_path, parts):
    pipe, plain, again = tiny_pipe(), tiny_pipe(), tiny_pipe()
    lora = changed(pipe, parts)
    lora.save(tmp_path / "lora.safetensors", {"updates": 3})
    lora.apply(pipe)
    base = drawn(plain)
    plain.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.testing.assert_close(drawn(plain), drawn(pipe), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawn(plain), base, atol=1e-3)  # a load that changes nothing says nothing
    read = load_lora(tmp_path / "lora.safetensors", again)
    assert read.metadata == {"updates": 3} and read.parts == parts
    read.apply(again)
    assert torch.equal(drawn(again), drawn(pipe))


@pytest.mark.parametrize("parts", PARTS)
def test_the_loop_trains_it(mini, tmp_path, parts, vision):
    P = load_profile("smoke", {"device": "cpu"})
    changes = {"updates": 2, "acts_from": 0, "confidence": 0.5, "learning_rate": 1e-3, "reference": "original"}
    before = prints(mini)
    lora = LoRA(mini, 4, parts)
    settings = P.finetune.model_copy(update=changes)
    run = AlignmentRun(mini, lora, vision, {"gender": [0.5, 0.5]}, settings, P.sampling, seed=0)
    history = run.train(["a photo of a pilot", "a photo of a nurse"], [], tmp_path)
    assert len(history) == 2 and history.loss.notna().all() and prints(mini) == before
    values = load_file(tmp_path / "patch.safetensors")
    assert {name.split(".")[0] for name in values} == set(parts)
    for part in parts:
        assert any(value.any() for name, value in values.items() if name.startswith(part) and "lora_B" in name), part


def test_factors_are_float32_on_a_model_in_half_precision(tiny_pipe):
    pipe = tiny_pipe(torch.bfloat16)
    lora = changed(pipe, ("text_encoder", "unet"))
    assert all(factor.dtype == torch.float32 for factor in lora.parameters())
    base = drawn(pipe)
    lora.apply(pipe)
    assert torch.isfinite(drawn(pipe)).all() and not torch.equal(drawn(pipe), base)


def test_what_does_not_fit_is_refused(tiny_pipe, tmp_path):
    pipe, path = tiny_pipe(), tmp_path / "lora.safetensors"
    with pytest.raises(UserError, match="LoRA cannot change vae"):
        LoRA(pipe, 4, ("vae",))
    changed(pipe, ("unet",)).save(path, {})
    plain = tiny_pipe()
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    theirs = drawn(plain)
    with pytest.raises(UserError, match="another LoRA is on the unet"):
        LoRA(plain, 4, ("unet",))
    assert torch.equal(drawn(plain), theirs)
    changed(pipe, ("text_encoder",)).save(path, {})
    with pytest.raises(UserError, match="made for another model"):
        load_lora(path, build_tiny(tmp_path, width=48))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        load_lora(tmp_path / "cut.safetensors", pipe)
    with pytest.raises(UserError, match="no LoRA of a Stable Diffusion"):
        load_lora(MINI / "patches" / "gender.safetensors", pipe)
    tensors = load_file(path)
    for damaged in ("{", "[1]"):
        save_file(tensors, path, metadata={"lora_adapter_metadata": damaged})
        with pytest.raises(UserError, match="header of LoRA"):
            load_lora(path, pipe)
    save_file(tensors, path, metadata={"record": "[1]"})
    with pytest.raises(UserError, match="cannot be read"):
        load_lora(path, pipe)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(UserError, match="is missing"):
        load_lora(path, pipe)


LAYERS = {
    "diffusers": {
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
        "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    },
    "kohya": {"text_encoder": ("_proj", "fc1", "fc2"), "unet": ("to_q", "to_out.0", "proj", "ff.net.2", "proj_in")},
    "locon": {
        "text_encoder": (),
        "unet": ("conv1", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "conv_out"),
    },
}


def foreign(pipe, tool, ranks=(4,)):
    """Map the layers (part, path) that `tool` adapts to A, B and the change B A of the weight."""
    made = {}
    for part, ends in LAYERS[tool].items():
        for path, layer in getattr(pipe, part).named_modules():
            if ends and path.endswith(ends) and isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                outer, *inner = layer.weight.shape
                rank = ranks[len(made) % len(ranks)]
                first = 0.2 * torch.randn(rank, *inner)
                second = 0.2 * torch.randn(outer, rank, *(1 for _ in inner[1:]))
                change = (second.flatten(1) @ first.flatten(1)).view_as(layer.weight)
                made[part, path.removeprefix("text_model.")] = first, second, change
    return made


def kohyas(made, alphas):
    """kohya's names, with alphas in turn; and the change that each layer has by its own alpha."""
    tensors, changes = {}, {}
    for number, ((part, path), (first, second, change)) in enumerate(made.items()):
        name = f"{'lora_unet' if part == 'unet' else 'lora_te_text_model'}_{path.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": first, f"{name}.lora_up.weight": second}
        alpha = alphas[number % len(alphas)]
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
        changes[part, path] = change * (1 if alpha is None else alpha / len(first))
    return tensors, changes


def changed_by_hand(pipe, changes):
    """What the model draws with the changes added to its weights."""
    for (part, path), change in changes.items():
        module = getattr(pipe, part)
        path = path if part == "unet" or not hasattr(module, "text_model") else f"text_model.{path}"
        module.get_submodule(path).weight.data += change
    return drawn(pipe)


@pytest.mark.parametrize(
    ("tool", "ranks", "alphas"),
    [
        *(("kohya", *scales) for scales in (((4,), (1,)), ((4,), (None,)), ((4, 2, 8), (4, 2, 8)))),
        *((tool, (4, 2), (1, 3, None)) for tool in LAYERS),
    ],
    ids=str,
)
def test_kohyas_files_act_as_their_numbers_say(tiny_pipe, tmp_path, tool, ranks, alphas):
    pipe, plain = tiny_pipe(), tiny_pipe()
    tensors, changes = kohyas(foreign(pipe, tool, ranks), alphas)
    save_file(tensors, tmp_path / "kohya.safetensors")
    expected = changed_by_hand(tiny_pipe(), changes)
    lora = load_lora(tmp_path / "kohya.safetensors", pipe)
    before = prints(pipe)
    lora.apply(pipe)
    torch.testing.assert_close(drawn(pipe), expected, atol=1e-3, rtol=1e-3)
    lora.remove(pipe)
    assert prints(pipe) == before
    lora.save(tmp_path / "own.safetensors", {})
    plain.load_lora_weights(tmp_path, weight_name="own.safetensors")
    torch.testing.assert_close(drawn(plain), expected, atol=1e-3, rtol=1e-3)
    lora.merge(pipe)
    torch.testing.assert_close(drawn(pipe), expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(expected, drawn(tiny_pipe()), atol=1e-2)


def diffusers_files(made):
    """The layouts of diffusers' own scripts over the years, for layers of attentions."""
    years = {"2024": {}, "2023": {}, "2023-peft": {}, "2022": {}}
    for (part, path), (first, second, _) in made.items():
        text = part == "text_encoder"
        years["2024"] |= {f"{part}.{path}.lora_A.weight": first, f"{part}.{path}.lora_B.weight": second}
        full = f"{part}.text_model.{path}" if text else f"{part}.{path}"
        years["2023-peft"] |= {f"{full}.lora_A.weight": first, f"{full}.lora_B.weight": second}
        middle = "lora_linear_layer" if text else "lora"
        years["2023"] |= {f"{full}.{middle}.down.weight": first, f"{full}.{middle}.up.weight": second}
        if not text:
            outer, _, projection = path.removesuffix(".0").rpartition(".")
            name = f"{outer}.processor.{projection}_lora"
            years["2022"] |= {f"{name}.down.weight": first, f"{name}.up.weight": second}
    return years


@pytest.mark.parametrize("year", ["2024", "2023-peft", "2023", "2022"])
def test_files_of_diffusers_scripts_act_as_their_numbers_say(tiny_pipe, tmp_path, year):
    pipe = tiny_pipe()
    made = foreign(pipe, "diffusers")
    save_file(diffusers_files(made)[year], tmp_path / "lora.safetensors")
    changes = {at: change for at, (_, _, change) in made.items() if year != "2022" or at[0] == "unet"}
    lora = load_lora(tmp_path / "lora.safetensors", pipe)
    lora.apply(pipe)
    torch.testing.assert_close(drawn(pipe), changed_by_hand(tiny_pipe(), changes), atol=1e-3, rtol=1e-3)


def test_alphas_in_diffusers_header_count(tiny_pipe, tmp_path):
    pipe, plain = tiny_pipe(), tiny_pipe()
    made = foreign(pipe, "diffusers")
    name = next(path for part, path in made if part == "unet")
    about = {f"{part}.{key}": value for part in LAYERS["diffusers"] for key, value in (("r", 4), ("lora_alpha", 2))}
    about |= {"unet.alpha_pattern": {name: 12}, "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    about |= {"text_encoder.target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]}
    path = tmp_path / "lora.safetensors"
    save_file(diffusers_files(made)["2023-peft"], path, metadata={"lora_adapter_metadata": json.dumps(about)})
    changes = {at: change * (3 if at == ("unet", name) else 0.5) for at, (_, _, change) in made.items()}
    load_lora(path, pipe).apply(pipe)
    torch.testing.assert_close(drawn(pipe), changed_by_hand(tiny_pipe(), changes), atol=1e-3, rtol=1e-3)
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    torch.testing.assert_close(drawn(pipe), drawn(plain), atol=1e-3, rtol=1e-3)


def test_other_adapters_are_refused(tiny_pipe, tmp_path):
    pipe, path = tiny_pipe(), tmp_path / "it.safetensors"
    tensors, _ = kohyas(foreign(pipe, "kohya"), (1,))
    name = next(iter(tensors)).removesuffix(".lora_down.weight")
    fails = {
        "it holds .*dora_scale": {f"{name}.dora_scale": torch.ones(1)},
        "it holds .*hada_w1_a": {f"{name}.hada_w1_a": torch.ones(2, 2)},
        "it holds .*lokr_w1": {f"{name}.lokr_w1": torch.ones(2, 2)},
        "it holds .*lora_mid": {f"{name}.lora_mid.weight": torch.ones(2, 2)},
        "it holds .*lora_B.bias": {f"{name}.lora_B.bias": torch.ones(2)},
        "alpha belongs to no layer": {"lora_unet_x.alpha": torch.tensor(1.0)},
        "a layout that diffusers does not know": {"lora_unet_x.lora_up.weight": torch.ones(2, 2)},
        "made for another model: unet.*proj_in.*the layer is missing": {
            "lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.ones(2, 2),
            "lora_unet_input_blocks_1_1_proj_in.lora_up.weight": torch.ones(2, 2),
        },
        "text_encoder_2": {
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 32),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(64, 2),
        },
    }
    for says, more in fails.items():
        save_file(tensors | more, path)
        with pytest.raises(UserError, match=says):
            load_lora(path, pipe)
