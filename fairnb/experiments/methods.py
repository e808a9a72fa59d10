"""An experiment: train one adapter for one target, and let the judge see what it does beside the original model.

FFD's exp-1 to exp-6 (Shen et al., ICLR 2024), their like with bias neurons, and guided sampling (Balancing Act) are
values of the profile's `experiments`; they differ in adapter, shares and prompts, and share one evaluation. What trains
weights shares one loop (`finetune`).
"""

import json
import time
from functools import reduce
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.h_classifiers import h_classifier_from_prompts
from fairnb.adapters.h_guidance import HGuidance, load_h_guidance
from fairnb.adapters.lora import LoRA
from fairnb.adapters.neuron_sets import NeuronSet, load_neurons, save_neurons, union
from fairnb.adapters.prefix import PrefixTokens
from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.pipeline import processes
from fairnb.profiles import Experiment, Profile
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import PromptSet
from fairnb.training.locate import locate
from fairnb.vision.perception import VisionModels


def target_shares(experiment: Experiment) -> dict[str | tuple[str, ...], np.ndarray]:
    """The shares as `Alignment` wants them: jointly the product [K1, K2, ...] of the attributes' own, else each [K]."""
    if len(experiment.shares) == 1:
        return {name: np.asarray(wanted) for name, wanted in experiment.shares.items()}
    return {tuple(experiment.shares): reduce(np.multiply.outer, map(np.asarray, experiment.shares.values()))}


def make_adapter(pipe: StableDiffusionPipeline, name: str, profile: Profile, words: PromptSet) -> Adapter:
    """The untrained adapter of an experiment. Neurons are located per attribute, once for all, and united."""
    experiment = profile.experiments[name]
    if experiment.adapter == "lora":
        return LoRA(pipe, experiment.rank, experiment.parts, profile.seed)
    if experiment.adapter == "prefix":
        return PrefixTokens(pipe, experiment.tokens, profile.seed)
    found = [_neurons(pipe, attribute, profile, words) for attribute in experiment.shares]
    return BiasNeurons(pipe.unet, reduce(union, found), profile.finetune_of(name).acts_from)


def find_neurons(
    pipe: StableDiffusionPipeline, attribute: str, profile: Profile, words: PromptSet, path: str | Path
) -> NeuronSet:
    """Locate the bias neurons of an attribute with the profile's settings on its train occupations; written to `path`
    with these settings."""
    chosen, state = profile.locate, processes()
    found = locate(
        pipe,
        get_attribute(attribute),
        words.split("train"),
        k=max(1, round(chosen.k * sum(weight.numel() for weight in pipe.unet.parameters()))),
        frequency=chosen.frequency,
        timestep=chosen.timestep,
        contents=words.contents,
        contexts=words.contexts,
        seed=profile.seed,
    )
    if state.is_main_process:
        save_neurons(found.neurons, path, {key: json.dumps(value) for key, value in found.settings.items()})
    state.wait_for_everyone()
    return found.neurons


def _neurons(pipe: StableDiffusionPipeline, attribute: str, profile: Profile, words: PromptSet) -> NeuronSet:
    path = profile.folder / "experiments" / f"neurons_{attribute}.safetensors"
    there = path.is_file()
    processes().wait_for_everyone()  # every process has looked before one of them writes
    return load_neurons(path) if there else find_neurons(pipe, attribute, profile, words, path)


def make_h_guidance(
    pipe: StableDiffusionPipeline, vision: VisionModels, words: PromptSet, profile: Profile, name: str
) -> tuple[HGuidance, float]:
    """The guidance of an experiment, and the minutes its h-classifiers took to make: one for each attribute, made once
    for all experiments that ask for the same."""
    experiment = profile.experiments[name]
    made = [_h_classifier(pipe, vision, attribute, words, profile, experiment) for attribute in experiment.shares]
    classifiers = [each.classifiers[attribute] for each, attribute in zip(made, experiment.shares, strict=True)]
    settings = experiment.h_guidance.model_dump(exclude={"images"})
    return HGuidance(classifiers, experiment.shares, **settings), sum(each.metadata["minutes"] for each in made)


def _h_classifier(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    attribute: str,
    words: PromptSet,
    profile: Profile,
    experiment: Experiment,
) -> HGuidance:
    """The file of one h-classifier, a guidance of no strength; trained anew where it is of other settings."""
    path, state = profile.folder / "experiments" / f"h_{attribute}.safetensors", processes()
    how = {"images": experiment.h_guidance.images, "seed": profile.seed}
    about = how | {"model": profile.model, "prompts": experiment.prompts, "sampling": profile.sampling.model_dump()}
    there = path.is_file() and about.items() <= load_h_guidance(path, pipe.device).metadata.items()
    state.wait_for_everyone()  # every process has looked before one of them writes
    if not there:
        started = time.perf_counter()
        prompts = words.prompts("train", experiment.prompts)
        made = h_classifier_from_prompts(pipe, vision, attribute, prompts, sampling=profile.sampling, **how)
        about["minutes"] = (time.perf_counter() - started) / 60
        if state.is_main_process:
            shares = np.full(len(made.classes), 1 / len(made.classes))
            HGuidance([made], {attribute: shares}, 0.0, reliable=0.0).save(path, about)
        state.wait_for_everyone()
    return load_h_guidance(path, pipe.device)
