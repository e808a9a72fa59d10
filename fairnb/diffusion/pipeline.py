"""Load any diffusers Stable Diffusion 1.x/2.x as a plain `StableDiffusionPipeline`, on the device at hand."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from fairnb.diffusion.kinds import check_pipeline, check_scheduler_class
from fairnb.errors import UserError
from fairnb.files import SHIPPED, resolve

T, R = TypeVar("T"), TypeVar("R")
PATIENCE = timedelta(hours=12)  # the main process judges alone for hours; the libraries give up after ten minutes
SLICED = 512  # images of this side are decoded one by one: a batch would need more memory than the U-Net
WHOLE_WORDS = "whole_words"  # in the configuration of a tokenizer: all words that its model was trained on
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:-\d+-of-\d+)?(?:\.(\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
# What errors mean and what to do, special ones first; {cause} is the error itself.
AWAY = (
    "is no folder here and could not be fetched ({cause}): where there is a network, run "
    "'hf download {model} --local-dir models/{name}', then name models/{name}"
)
MEMORY = {
    (MemoryError, torch.OutOfMemoryError): "does not fit into memory ({cause}): use dtype bfloat16 or another device"
}
HUB = {
    GatedRepoError: "is gated: accept its terms on its page on the hub, then run 'hf auth login'",
    RepositoryNotFoundError: "is no folder here and not on the hub, or private there: check it, or run 'hf auth login'",
    RevisionNotFoundError: "has no such revision on the hub: give a branch, tag or commit of its page there",
    RemoteEntryNotFoundError: "lacks a file on the hub ({cause}): is it in the format of diffusers or transformers?",
    HfHubHTTPError: "was refused by the hub ({cause}): run 'hf auth login' if that is 401 or 403, else try again later",
    (HTTPError, ConnectionError, TimeoutError): AWAY,  # HF_HUB_OFFLINE is a ConnectionError, too
    LocalEntryNotFoundError: AWAY,
}


def processes() -> PartialState:
    """The processes of this run: one, or those of `torchrun` or `accelerate launch` (on CPUs only `torchrun`)."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def divided(work: Sequence[T], do: Callable[[T], R]) -> list[R]:
    """What `do` returns for each piece of the work, of which every process does its share; the same list in all.

    Tensors must be on the CPU, since a process cannot hold what lies on the GPU of another.
    """
    state = processes()
    own = [do(piece) for piece in work[state.process_index :: state.num_processes]]
    parts = gather_object([own])  # one process: itself
    return [parts[number % len(parts)][number // len(parts)] for number in range(len(work))]


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

    Weights are safetensors or, with torch's safe loader, .bin; of the variant fp16 where there are no others. The
    safety checker is left out: it blanks images, and a blank image has no face to measure. `UserError` if the model is
    missing, not a Stable Diffusion that is drawn as diffusers draws it, or has damaged weights.
    """
    path = Path(model)
    if path.is_file():
        raise UserError(
            f"{model} is a single file: make a diffusers folder of it, 'from diffusers import StableDiffusionPipeline; "
            f'StableDiffusionPipeline.from_single_file("{path.as_posix()}").save_pretrained("models/{path.stem}")\', '
            f"then name models/{path.stem}"
        )
    if path.exists() and not (path / "model_index.json").is_file():
        raise UserError(f"{model} is not a diffusers model: model_index.json is missing; give the folder that holds it")
    if not path.exists() and not may_be_hub_id(model):
        raise UserError(explain_missing("model", model))
    try:
        index = path / "model_index.json"
        if not path.exists():
            index = Path(hf_hub_download(str(model), index.name, revision=revision))
        _check_index(model, index)
        pipe = StableDiffusionPipeline.from_pretrained(
            str(model),
            revision=revision,
            variant=_variant(model, index.parent, revision),
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            local_files_only=path.exists(),
        )
        pipe.set_progress_bar_config(disable=True)
        check_pipeline(pipe, str(model))
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.eval().requires_grad_(False)
        pipe.to(pick_device(device) if not isinstance(device, torch.device) else device)
    except UserError:
        raise
    except Exception as error:  # diffusers raises a different type for each broken file
        raise UserError(explain_missing("model", model, error)) from error
    size = pipe.unet.config.sample_size
    if pipe.vae_scale_factor * (size if isinstance(size, int) else max(size)) >= SLICED:
        pipe.vae.enable_slicing()
    return pipe


def _check_index(model: str | Path, index: Path) -> None:
    """Refuse SDXL, Flux and others before they are fetched: diffusers would load those of their parts that fit."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        kind, scheduler = parts["_class_name"], parts.get("scheduler", [None, "missing"])[1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{index} is damaged ({error}): copy the model again") from error
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{model} is a {kind}: fairnb works with StableDiffusionPipeline, that is 1.x and 2.x")
    check_scheduler_class(scheduler)


def _variant(model: str | Path, folder: Path, revision: str | None) -> str | None:
    """The variant of the weights: None where the U-Net has files without one, else for example "fp16"."""
    names = [path.name for path in (folder / "unet").glob("*")]
    if not Path(model).exists():
        with suppress(HTTPError, OSError):  # no network: what is in the cache
            names = [Path(file.path).name for file in HfApi().list_repo_tree(str(model), "unet", revision=revision)]
    variants = {match[1] for name in names if (match := WEIGHTS.fullmatch(name))}
    return None if None in variants else min(variants, default=None)


def may_be_hub_id(model: str | Path) -> bool:
    """Whether a name that is not a path can be a repository on the hub: owner/name."""
    path = Path(model)
    return not path.is_absolute() and len(path.parts) == 2 and not str(model).startswith((".", "data/"))


def explain_missing(what: str, model: str | Path, error: Exception | None = None) -> str:
    """Explain in one sentence why a folder or hub id could not be loaded, and what to do."""
    known = MEMORY if Path(model).exists() else MEMORY | HUB
    if not Path(model).exists() and not may_be_hub_id(model):
        ours = f"; that of the package is {SHIPPED}{model}" if resolve(f"{SHIPPED}{model}").exists() else ""
        return f"no {what} at {model}: give a folder or a hub id such as owner/name{ours}"
    causes = list(_causes(error))
    for kind, explanation in known.items():
        if found := next((cause for cause in causes if isinstance(cause, kind)), None):
            cause = shorten(str(found) or type(found).__name__, 200)
            return f"the {what} {model} {explanation.format(model=model, name=Path(model).name, cause=cause)}"
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"the {what} {model} could not be loaded: {reason}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came from: diffusers and transformers replace the hub's own errors by others."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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


def check_words(pipe: StableDiffusionPipeline, prompts: Iterable[str]) -> None:
    """`UserError` for words that a model of few words was never trained on; it names known words like them.

    A tokenizer splits any unknown word into known pieces, which suits a model that has read a part of the internet.
    The mini world's saw no pieces, only whole words (its tokenizer lists them), and would draw just anything.
    """
    if not (known := pipe.tokenizer.init_kwargs.get(WHOLE_WORDS)):
        return
    added = pipe.tokenizer.get_added_vocab()
    for prompt in prompts:
        tokens = [token for token in pipe.tokenizer.tokenize(prompt) if token not in added]
        for word in "".join(tokens).split("</w>"):
            if word and word not in known:
                near = get_close_matches(word, known)
                hint = f" (near words that it knows: {', '.join(near)})" if near else ""
                raise UserError(f"the model does not know the word '{word}' of '{prompt}'{hint}: use words it knows")


def tokenize(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Token ids [N, L] of the prompts, padded and truncated as the pipeline does; see `check_words`."""
    check_words(pipe, prompts)
    tokens = pipe.tokenizer(
        prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids.to(pipe.device)


def encode_prompts(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text encoder states [N, L, D] of the prompts, as the pipeline computes them."""
    return pipe.text_encoder(tokenize(pipe, prompts))[0]
