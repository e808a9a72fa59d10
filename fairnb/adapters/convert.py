"""Convert checkpoints of PyTorch (.pth, .pt, .bin) to safetensors files that `load_adapter` reads.

They are read with `weights_only`: LoRA in any layout that `lora_files` knows, one embedding of textual inversion, and
those published by FFD (Shen et al., ICLR 2024):

- `text_encoder_lora_EMA.pth`: `text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight` [rank, in]
  and `.up.weight` [out, rank], also for the MLPs, with diffusers' names of 2023;
- `unet_lora_EMA.pth`: `<attention>.processor.to_q_lora.down.weight`, likewise for k, v and out;
- `prefix_embedding_EMA.pth`: `token_embedding.weight` [1 + tokens, D], whose first row is unused.

Their LoRA has no alpha: strength 1 is what was trained. FFD trained with prompts that are not padded to the text
encoder's length; diffusers pipelines always pad, so a converted file acts slightly differently than in FFD's scripts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from fairnb.adapters.lora_files import read_factors
from fairnb.adapters.prefix import TOKEN
from fairnb.adapters.protocol import read_pickled
from fairnb.errors import UserError
from fairnb.tensors import write_tensors


def convert(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Convert checkpoints to one safetensors file that `load_adapter` and plain diffusers read.

    LoRAs of text encoder and U-Net, given together, become one file. `UserError` if a file is missing, cannot be read
    safely, or has another layout.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors |= _renamed(Path(path))
    if TOKEN in tensors and len(tensors) > 1:
        raise UserError("prefix tokens and LoRA are two adapters: convert them one by one")
    whole = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    return write_tensors(whole, out, {"format": "pt"})


def _renamed(path: Path) -> dict[str, torch.Tensor]:
    state = read_pickled(path)
    if "token_embedding.weight" in state and state["token_embedding.weight"].ndim == 2:
        return {TOKEN: state["token_embedding.weight"][1:]}
    if len(state) == 1 and "." not in (token := next(iter(state))) and state[token].ndim in (1, 2):
        return {TOKEN: state[token].reshape(-1, state[token].shape[-1])}
    if "conv_in.weight" in state:
        raise UserError(f"{path} is a whole U-Net, which needs its base: give it as the patch itself (--patch {path})")
    return read_factors(path, state, {})
