"""Read the LoRA layouts of the field: diffusers' of all years, its training scripts', kohya's, FFD's.

Names are diffusers' work. Scales are not: it mixes up the layers' alphas where they differ, so they are folded into the
factors first.
"""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.utils.other import get_pattern_key

from fairnb.errors import UserError

Factors = dict[str, torch.Tensor]
UP = (".lora_up.weight", ".lora.up.weight", ".lora_B.weight", ".lora_linear_layer.up.weight")


def read_factors(path: str | Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> Factors:
    """The float32 factors `<part>.<layer>.lora_A.weight` [rank, ...] and `.lora_B.weight`, whose product is the change.

    `tensors` and `header` are those of the file `path`. Layers of the text encoder are named as in transformers 4, in
    `text_model`. `UserError` for another kind of adapter (DoRA, LoHa, LoKr, ...), and for factors without a partner.
    """
    strange = next((name for name in tensors if not name.endswith(".alpha") and not _is_factor(name)), None)
    if strange is not None:
        raise UserError(f"{path} is no LoRA of a Stable Diffusion: it holds {strange}; give a plain LoRA")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for name in [name for name in tensors if name.endswith(".alpha")]:
        alpha, layer = tensors.pop(name), name.removesuffix(".alpha")
        up = next((layer + end for end in UP if layer + end in tensors), None)
        if up is None or alpha.numel() != 1:
            raise UserError(f"LoRA {path} is damaged: {name} belongs to no layer; copy it again")
        tensors[up] = tensors[up] * (alpha.item() / tensors[up].shape[1])
    try:
        named, _ = StableDiffusionPipeline.lora_state_dict(dict(tensors))
        factors = _by_part(named)
    except Exception as error:  # diffusers raises a different type for each layout that it does not know
        raise UserError(f"LoRA {path} has a layout that diffusers does not know: {str(error)[:200]}") from error
    for name in factors:
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if other not in factors:
            raise UserError(f"LoRA {path} is damaged: {other} is missing; train or copy it again")
    if len(factors) != len(tensors):
        raise UserError(f"LoRA {path} holds {len(tensors)} weights, of which diffusers knows {len(factors)}")
    _fold_header(path, factors, header)
    return factors


def public_name(name: str) -> str:
    """A factor's name in files, where the text encoder's layers lie in `text_model`, as in transformers 4."""
    part, _, path = name.partition(".")
    return name if part != "text_encoder" else f"{part}.text_model.{path.removeprefix('text_model.')}"


def _is_factor(name: str) -> bool:
    return name.endswith(".weight") and "lora" in name and "mid" not in name.split("lora")[-1]


def _by_part(named: dict[str, torch.Tensor]) -> Factors:
    """peft's names, whose first word is the part of the pipeline; names without one are of FFD or older diffusers."""
    parts: dict[str, dict[str, torch.Tensor]] = {"text_encoder": {}, "unet": {}}
    for name, tensor in named.items():
        part, _, path = name.partition(".")
        if part not in parts:
            part, path = "text_encoder" if name.startswith("text_model.") else "unet", name
        parts[part][path] = tensor
    text, unet = parts["text_encoder"], parts["unet"]
    if text:
        text = convert_state_dict_to_peft(convert_state_dict_to_diffusers(text))
    if not all(".lora_A." in name or ".lora_B." in name for name in unet):
        unet = convert_unet_state_dict_to_peft(unet)
    return {public_name(f"text_encoder.{name}"): tensor for name, tensor in text.items()} | {
        f"unet.{name}": tensor for name, tensor in unet.items()
    }


def _fold_header(path: str | Path, factors: Factors, header: dict[str, str]) -> None:
    """Multiply lora_B by alpha / rank where diffusers' header gives an alpha."""
    try:
        about = dict(json.loads(header.get("lora_adapter_metadata", "{}")))
        for name in [name for name in factors if name.endswith(".lora_B.weight")]:
            part, _, layer = name.removesuffix(".lora_B.weight").partition(".")
            rank = factors[name].shape[1]
            alphas = about.get(f"{part}.alpha_pattern") or {}
            alpha = alphas.get(get_pattern_key(alphas, layer), about.get(f"{part}.lora_alpha", rank))
            root = 0.5 if about.get(f"{part}.use_rslora") else 1
            factors[name] = factors[name] * (alpha / rank**root)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"the header of LoRA {path} is damaged ({error}): train or copy it again") from error
