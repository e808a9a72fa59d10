"""Load any diffusers Stable Diffusion 1.x/2.x as a plain `StableDiffusionPipeline`, on the device at hand."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError

from fairnb.errors import UserError

SLICED = 512  # images of this side are decoded one by one: a batch would need more memory than the U-Net


def processes() -> PartialState:
    """The processes of this run: one, or those of `torchrun` or `accelerate launch` (on CPUs only `torchrun`)."""
    return PartialState(cpu=not torch.cuda.is_available())


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the best available one: cuda, mps, cpu."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        processes()  # gives each process a GPU of its own
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_pipeline(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> StableDiffusionPipeline:
    """Load `model` (a diffusers folder or a hub id) in eval mode with frozen weights.

    The safety checker is left out: it blanks images, and a blank image has no face to measure. `UserError` if the
    folder is missing, not a Stable Diffusion, or has damaged weights.
    """
    path = Path(model)
    if path.exists() and not (path / "model_index.json").is_file():
        raise UserError(f"{model} is not a diffusers model: model_index.json is missing; give the folder that holds it")
    if not path.exists() and not may_be_hub_id(model):
        raise UserError(explain_missing("model", model))
    if path.exists():
        _check_kind(path)
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
        raise UserError(explain_missing("model", model, error)) from error
    pipe.set_progress_bar_config(disable=True)
    if pipe.vae.config.sample_size >= SLICED:
        pipe.vae.enable_slicing()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    return pipe.to(pick_device(device) if not isinstance(device, torch.device) else device)


def _check_kind(folder: Path) -> None:
    """Refuse SDXL, Flux and others, whose parts diffusers would load only partly."""
    try:
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model_index.json'} is damaged ({error}): copy the model again") from error
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{folder} is a {kind}: fairnb works with StableDiffusionPipeline, that is 1.x and 2.x")


def may_be_hub_id(model: str | Path) -> bool:
    """Whether a name that is not a path can be a repository on the hub: owner/name."""
    path = Path(model)
    return not path.is_absolute() and len(path.parts) == 2 and not str(model).startswith((".", "data/"))


def explain_missing(what: str, model: str | Path, error: Exception | None = None) -> str:
    """Explain in one sentence why a folder or hub id could not be loaded, and what to do."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if Path(model).exists():
        return f"the {what} at {model} could not be loaded: {reason}"
    if not may_be_hub_id(model):
        return f"no {what} at {model}: give a folder or a hub id such as owner/name"
    name = Path(model).name
    return (
        f"the {what} {model} is no folder here and could not be fetched: where there is a network, run "
        f"'hf download {model} --local-dir models/{name}', then name models/{name}"
    )


def save_pipeline(pipe: StableDiffusionPipeline, folder: str | Path) -> Path:
    """Write a diffusers folder, whole or not at all; `UserError` if it cannot be written."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(temporary, safe_serialization=True)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be written ({error}): free space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def overlong_prompts(pipe: StableDiffusionPipeline, prompts: Iterable[str]) -> list[str]:
    """The prompts that are longer than the text encoder's input."""
    longest = pipe.tokenizer.model_max_length
    return [prompt for prompt in prompts if len(pipe.tokenizer(prompt, verbose=False).input_ids) > longest]


def image_size(pipe: StableDiffusionPipeline) -> tuple[int, int]:
    """Height and width of the model's images, in pixels."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


def tokenize(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Token ids [N, L] of the prompts, padded and truncated as the pipeline does."""
    tokens = pipe.tokenizer(
        prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids.to(pipe.device)


def encode_prompts(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text encoder states [N, L, D] of the prompts, as the pipeline computes them."""
    return pipe.text_encoder(tokenize(pipe, prompts))[0]
