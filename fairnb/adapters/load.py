"""Load the file of any adapter."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from fairnb.adapters.bias_neurons import KIND
from fairnb.adapters.full import KIND as FULL
from fairnb.adapters.full import load_full
from fairnb.adapters.h_guidance import KIND as GUIDANCE
from fairnb.adapters.h_guidance import HGuidance, load_h_guidance
from fairnb.adapters.lora import load_lora
from fairnb.adapters.patch import load_patch
from fairnb.adapters.prefix import load_prefix
from fairnb.adapters.protocol import Adapter, read_weights
from fairnb.errors import UserError

PICKLED = (".pth", ".pt", ".bin", ".ckpt")


def load_adapter(path: str | Path, pipe: StableDiffusionPipeline) -> Adapter | HGuidance:
    """Load a safetensors file of bias neurons, full weights, h-guidance, LoRA or prefix tokens (also diffusers' files),
    not applied.

    `UserError` if the file is damaged, none of these, or made for another model.
    """
    if Path(path).suffix in PICKLED:
        raise UserError(f"{path} is no .safetensors file: convert FFD's checkpoints with fairnb convert")
    tensors, header, _ = read_weights(path)
    if header.get("kind") == KIND:
        return load_patch(path, pipe)
    if header.get("kind") == FULL:
        return load_full(path, pipe)
    if header.get("kind") == GUIDANCE:
        return load_h_guidance(path, pipe.device)
    return load_prefix(path, pipe) if len(tensors) == 1 else load_lora(path, pipe)
