"""Tell before hours are spent what a profile lacks here, models, labels, memory or disk, and how long it will take.

Time and memory are measured: the largest steps of a run are done once, each on the batch that the profile asks for.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import snapshot_download
from transformers import AutoConfig

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.diffusion.gradients import adjusted_backward, trajectory
from fairnb.diffusion.pipeline import load_pipeline, may_be_hub_id
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.experiments.budget import Work, experiments, main_path, total
from fairnb.measure.images import save_image
from fairnb.memory import device_peak, reset_device_peak
from fairnb.profiles import Profile, Source
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import PromptSet, load_prompt_set
from fairnb.prompts.templates import photo_of
from fairnb.training.locate import contrast_pairs, count_kept
from fairnb.vision.classifiers import check_there, declared_table
from fairnb.vision.clip_heads import find_clip_heads, load_clip_heads
from fairnb.vision.perception import load_vision_models


class Line(NamedTuple):
    """Whether it is good (None: only said), what it is about, and what there is to say."""

    good: bool | None
    name: str
    text: str


class Costs(NamedTuple):
    """Seconds of a U-Net pass of one image, of one with gradient, and of an image that is decoded and looked at; the
    bytes of a stored image; and the most memory held, in GB (None where it cannot be measured)."""

    one_pass: float
    one_gradient: float
    one_image: float
    stored: float
    memory: float | None

    def hours(self, work: Work) -> float:
        """Of some work on this machine."""
        seconds = work.passes * self.one_pass + work.gradients * self.one_gradient + work.drawn * self.one_image
        return seconds / 3600


def preflight(profile: Profile) -> Iterator[Line]:
    """The lines of `fairnb check --profile`, one by one; the measurement is left out where a model is missing."""
    good = True
    for line in _models(profile):
        good = good and line.good is not False
        yield line
    if not good:
        yield Line(None, "time and memory", "are measured when all models are there")
        return
    pipe = load_pipeline(
        profile.model, revision=profile.revision, device=profile.device, dtype=getattr(torch, profile.dtype)
    )
    prompts = load_prompt_set(profile.prompts)
    costs = measure_costs(pipe, profile, prompts)
    yield _memory(pipe, costs)
    works = {"main path": main_path(profile, prompts), "experiments": experiments(profile, prompts)}
    for name, work in works.items():
        if work:
            each = ", ".join(f"{key} {_time(costs.hours(value))}" for key, value in work.items())
            yield Line(None, name, f"{_time(costs.hours(total(work)))} in one process: {each}")
    yield _disk(profile, sum(total(work).stored for work in works.values()) * costs.stored)


def _models(profile: Profile) -> Iterator[Line]:
    """Whether each model is on this machine, and whether labels fit."""
    yield _there("model", profile.model, profile.revision)
    yield _there("clip", profile.clip)
    if profile.dino:
        yield _there("dino", profile.dino)
    if profile.occupation_judge:
        yield _there("occupation_judge", profile.occupation_judge)
    for role, sources in (("guide", profile.guide), ("judge", profile.judge)):
        for source in sources:
            line = _there(role, source.model, source.revision)
            yield _labels(role, source) if line.good else line


def _there(role: str, model: str, revision: str | None = None) -> Line:
    path = Path(model)
    try:
        check_there([path])
    except UserError as error:
        return Line(False, role, str(error))
    if path.exists():
        return Line(True, role, model)
    if not may_be_hub_id(model):
        return Line(False, role, f"no {role} at {model}: give a folder or a hub id such as owner/name")
    try:
        return Line(True, role, f"{model}: {snapshot_download(model, revision=revision, local_files_only=True)}")
    except Exception:  # huggingface_hub raises different types for what is not in its cache
        get = f"hf download {model}" + (f" --revision {revision}" if revision else "")
        return Line(False, role, f"{model} is not on this machine: where there is a network, run '{get}'")


def _labels(role: str, source: Source) -> Line:
    """Whether the labels that a profile declares are those of the model."""
    if source.labels is None or Path(source.model).suffix:
        return Line(True, role, source.model)
    try:
        if weights := find_clip_heads(source.model, source.revision):
            declared_table(source, load_clip_heads(weights, list(source.labels)).labels())
        else:
            config = AutoConfig.from_pretrained(source.model, revision=source.revision, local_files_only=True)
            if "CLIPModel" not in (config.architectures or []):
                declared_table(source, config.id2label)
    except Exception as error:  # a damaged configuration raises different types
        return Line(False, role, str(error).strip().splitlines()[0])
    return Line(True, role, f"{source.model}: its labels fit")


def measure_costs(pipe: StableDiffusionPipeline, profile: Profile, prompts: PromptSet) -> Costs:
    """Do the largest steps of a run once, and measure their time and memory."""
    settings, sampling = profile.finetune, profile.sampling
    vision, prompt = load_vision_models(profile, pipe.device), photo_of(prompts.split("train")[0])
    halves = 2 if sampling.guidance_scale > 1 else 1
    how = {"steps": 2, "guidance_scale": sampling.guidance_scale}
    batch, part = noise(pipe, prompt, range(sampling.batch), 0), noise(pipe, prompt, range(settings.part), 0)
    sample(pipe, prompt, part[:1], **how)  # the libraries warm up
    reset_device_peak()
    drawing, final = _timed(pipe, lambda: sample(pipe, prompt, batch, **how))
    with torch.no_grad():
        looking, images = _timed(pipe, lambda: decode(pipe, final))
        looking += _timed(pipe, lambda: vision.perceive(pipe, final, sampling.batch))[0]
    adapter = BiasNeurons(pipe.unet, {"conv_in.weight": torch.arange(1)})
    parts = (pipe.unet, pipe.vae) if settings.gradient_checkpointing else ()
    for each in parts:
        each.enable_gradient_checkpointing()
    adapter.attach()

    def update() -> None:
        path = trajectory(pipe, prompt, part, **how)
        latents = path.final.detach().requires_grad_()
        (1 - vision.image_features(decode(pipe, latents)).sum()).backward()
        adjusted_backward(pipe, path, latents.grad, guidance_scale=sampling.guidance_scale, steps_used=2)

    updating, _ = _timed(pipe, update)
    adapter.detach()
    for each in parts:
        each.disable_gradient_checkpointing()
    words = {"contents": prompts.contents, "contexts": prompts.contexts, "seed": 0}
    pairs = contrast_pairs(get_attribute(profile.attribute), prompts.split("train")[:1], **words)
    chosen = profile.locate.model_dump(include={"timestep", "noises", "tensors"})
    k = max(1, round(profile.locate.k * sum(weight.numel() for weight in pipe.unet.parameters())))
    _timed(pipe, lambda: count_kept(pipe, pairs[:1], k=k, seed=0, **chosen))
    held = device_peak()
    one_pass = drawing / (2 * halves * len(batch))
    drawn = 2 * halves * len(part) * one_pass
    with tempfile.TemporaryDirectory() as folder:
        size = save_image(images[0], Path(folder) / "image.png").stat().st_size
    return Costs(
        one_pass, max(updating - drawn, 0) / (2 * halves * len(part)), looking / len(batch), size, held and held / 1e3
    )


def _timed(pipe: StableDiffusionPipeline, work: Callable):
    def synchronised() -> float:
        if pipe.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    started = synchronised()
    result = work()
    return synchronised() - started, result


def _memory(pipe: StableDiffusionPipeline, costs: Costs) -> Line:
    if costs.memory is None:
        return Line(None, "memory", "cannot be measured here")
    if pipe.device.type != "cuda":
        return Line(None, "memory", f"{costs.memory:.1f} GB held by the largest steps, on the CPU")
    total = torch.cuda.get_device_properties(pipe.device).total_memory / 1e9
    advice = "" if costs.memory < 0.9 * total else ": lower sampling.batch and finetune.part"
    return Line(not advice, "memory", f"{costs.memory:.1f} of {total:.0f} GB held by the largest steps{advice}")


def _disk(profile: Profile, needed: float) -> Line:
    place = Path(profile.output)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{needed / 1e9:.1f} GB of images, {free / 1e9:.0f} GB free at {place}"
    return Line(needed < 0.9 * free, "disk", text + ("" if needed < 0.9 * free else ": choose another output"))


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
