"""Load the file of any adapter."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from fairnb.adapters.bias_neurons import KIND
from fairnb.adapters.class_directions import KIND as DIRECTIONS
from fairnb.adapters.class_directions import load_class_directions
from fairnb.adapters.class_tokens import KIND as TOKENS
from fairnb.adapters.class_tokens import load_class_tokens
from fairnb.adapters.full import KIND as FULL
from fairnb.adapters.full import load_full
from fairnb.adapters.h_guidance import KIND as GUIDANCE
from fairnb.adapters.h_guidance import load_h_guidance
from fairnb.adapters.h_space import Steering
from fairnb.adapters.lora import load_lora
from fairnb.adapters.patch import load_patch, neurons_of_unet
from fairnb.adapters.prefix import load_prefix
from fairnb.adapters.protocol import Adapter, read_pickled, read_weights
from fairnb.errors import UserError

PICKLED = (".pth", ".pt", ".bin", ".ckpt")


def load_adapter(path: str | Path, pipe: StableDiffusionPipeline) -> Adapter | Steering:
    """Load a file by what it holds, not applied: bias neurons, full weights, h-guidance, class directions, class
    tokens, LoRA or prefix tokens (safetensors).

    LoRA and prefix tokens may be those of other tools. A whole fine-tuned U-Net (.pth too) becomes bias neurons.
    `UserError` if the file is damaged, none of these, or made for another model.
    """
    pickled = Path(path).suffix in PICKLED
    tensors, header = (read_pickled(path), {}) if pickled else read_weights(path)[:2]
    if any(name.removeprefix("module.") == "conv_in.weight" for name in tensors):
        return neurons_of_unet(path, tensors, pipe.unet)
    if pickled:
        raise UserError(f"{path} is no .safetensors file: write one with fairnb convert {path} --out FILE.safetensors")
    if header.get("kind") == KIND:
        return load_patch(path, pipe)
    if header.get("kind") == FULL:
        return load_full(path, pipe)
    if header.get("kind") == GUIDANCE:
        return load_h_guidance(path, pipe.device)
    if header.get("kind") == DIRECTIONS:
        return load_class_directions(path, pipe.device)
    if header.get("kind") == TOKENS:
        return load_class_tokens(path, pipe.device)
    return load_prefix(path, pipe) if len(tensors) == 1 else load_lora(path, pipe)
