"""Convert FFD's published checkpoints (Shen et al., ICLR 2024) to safetensors files that `load_adapter` reads.

They are PyTorch files, read with `weights_only`:

- `text_encoder_lora_EMA.pth`: `text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight` [rank, in]
  and `.up.weight` [out, rank], also for the MLPs, with diffusers' names of 2023;
- `unet_lora_EMA.pth`: `<attention>.processor.to_q_lora.down.weight`, likewise for k, v and out;
- `prefix_embedding_EMA.pth`: `token_embedding.weight` [1 + tokens, D], whose first row is unused.

Their LoRA has no alpha: strength 1 is what was trained. FFD trained with prompts that are not padded to the text
encoder's length; diffusers pipelines always pad, so a converted file acts slightly differently than in FFD's scripts.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from fairnb.adapters.prefix import TOKEN
from fairnb.errors import UserError
from fairnb.files import write_atomically

TEXT_ENCODER = re.compile(r"(text_model\..+)\.lora_linear_layer\.(down|up)\.weight")
UNET = re.compile(r"(.+)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")
FACTORS = {"down": "lora_A", "up": "lora_B"}


def convert(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Convert FFD's checkpoints to one safetensors file that `load_adapter` and plain diffusers read.

    LoRAs of text encoder and U-Net, given together, become one file. `UserError` if a file is missing, cannot be read
    safely, or has another layout.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors |= _renamed(Path(path))
    if TOKEN in tensors and len(tensors) > 1:
        raise UserError("prefix tokens and LoRA are two adapters: convert them one by one")
    whole = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    return write_atomically(out, lambda temporary: save_file(whole, temporary, metadata={"format": "pt"}))


def _renamed(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, "cpu", weights_only=True)
        state = {str(name): torch.as_tensor(value) for name, value in state.items()}
    except Exception as error:  # missing, truncated, with code in it, no dictionary of tensors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is no file of weights that can be loaded safely: {reason}") from error
    if "token_embedding.weight" in state and state["token_embedding.weight"].ndim == 2:
        return {TOKEN: state["token_embedding.weight"][1:]}
    renamed = {}
    for name, value in state.items():
        if match := TEXT_ENCODER.fullmatch(name):
            layer, factor = match.groups()
            renamed[f"text_encoder.{layer}.{FACTORS[factor]}.weight"] = value
        elif match := UNET.fullmatch(name):
            layer, projection, factor = match.groups()
            projection = "to_out.0" if projection == "out" else f"to_{projection}"
            renamed[f"unet.{layer}.{projection}.{FACTORS[factor]}.weight"] = value
        else:
            raise UserError(f"{path} holds {name}, which no file of FFD's does: give its LoRA or prefix_embedding file")
    if not renamed:
        raise UserError(f"{path} holds no weights: download it again")
    return renamed
