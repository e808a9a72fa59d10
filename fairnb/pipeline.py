"""Load any diffusers Stable Diffusion 1.x/2.x as a plain `StableDiffusionPipeline`, on the device at hand."""

import hashlib
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from fairnb.errors import UserError


def pick_device(name: str | None = None) -> torch.device:
    """The device named, or the best one at hand: cuda, then mps, then cpu."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_pipeline(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> StableDiffusionPipeline:
    """Load `model` (a diffusers folder or a hub id) in eval mode with frozen weights.

    The safety checker is left out: it blanks pictures, and a blank picture has no face to measure.
    Raises `UserError` when the folder is missing, is no Stable Diffusion, or holds damaged weights.
    """
    path = Path(model)
    if path.exists() and not (path / "model_index.json").is_file():
        raise UserError(f"{model} is not a diffusers model: model_index.json is missing; give the folder that holds it")
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2 or str(model).startswith((".", "data/"))):
        raise UserError(f"no model at {model}: give a diffusers folder or a hub id such as owner/name")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            str(model),
            revision=revision,
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            use_safetensors=True,
            local_files_only=path.exists(),
        )
    except Exception as error:  # diffusers raises a different type for each broken file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{model} could not be loaded as Stable Diffusion: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    return pipe.to(pick_device(device) if not isinstance(device, torch.device) else device)


def encode(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text-encoder states [N, L, D] of the prompts, as the pipeline itself computes them."""
    tokens = pipe.tokenizer(
        prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids.to(pipe.device))[0]


def fingerprint(unet: torch.nn.Module) -> str:
    """A hash of every parameter's name, shape and value: equal for equal U-Nets, whatever the folder's name."""
    digest = hashlib.sha256()
    for name, weight in sorted(unet.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
