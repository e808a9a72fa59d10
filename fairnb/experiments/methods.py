"""The adapters and targets of a profile's experiments.

FFD's exp-1 to exp-6 (Shen et al., ICLR 2024), their counterparts with bias neurons, DACL's triplets and h-guidance
(Balancing Act) are values of the profile's `experiments`: they differ in adapter, target shares and prompts, and have
one training loop and one evaluation in common.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.class_directions import ClassDirections, directions_from_prompts
from fairnb.adapters.class_tokens import ClassTokens, class_tokens
from fairnb.adapters.full import FullWeights, load_full
from fairnb.adapters.h_classifiers import HClassifier, capture_h, h_classifier_from_captured
from fairnb.adapters.h_guidance import HGuidance, load_h_guidance
from fairnb.adapters.lora import LoRA
from fairnb.adapters.neuron_sets import (
    NeuronSet,
    count_neurons,
    largest,
    load_neurons,
    random_anywhere,
    random_like,
    read_settings,
    save_neurons,
    union,
    write_flat_text,
)
from fairnb.adapters.prefix import PrefixTokens
from fairnb.adapters.prompt_gate import fit_gate
from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.pipeline import processes
from fairnb.errors import UserError
from fairnb.identity import difference, hashed
from fairnb.profiles import Experiment, Profile
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import PromptSet
from fairnb.shards import Shard, find_parts, interleave, is_done, load_tensors, remove_parts, save_tensors
from fairnb.training.locate import FAMILIES, contrast_pairs, count_kept, locate, mean_gradient
from fairnb.vision.perception import VisionModels


def target_shares(experiment: Experiment) -> dict[str | tuple[str, ...], np.ndarray]:
    """The target of `AlignmentRun`: [K] shares of one attribute, or joint shares [K1, K2, ...], the product of
    several."""
    if len(experiment.shares) == 1:
        return {name: np.asarray(wanted) for name, wanted in experiment.shares.items()}
    return {tuple(experiment.shares): reduce(np.multiply.outer, map(np.asarray, experiment.shares.values()))}


def make_adapter(pipe: StableDiffusionPipeline, name: str, profile: Profile, prompts: PromptSet) -> Adapter:
    """Return the untrained adapter of an experiment. Neurons are located once per attribute; several sets are
    united."""
    experiment = profile.experiments[name]
    if experiment.adapter == "lora":
        return LoRA(pipe, experiment.rank, experiment.parts, profile.seed)
    if experiment.adapter == "full":
        return FullWeights(pipe, experiment.parts)
    if experiment.adapter == "prefix":
        return PrefixTokens(pipe, experiment.tokens, profile.seed)
    found = reduce(union, [_neurons(pipe, attribute, profile, prompts, name) for attribute in experiment.shares])
    chosen = _instead_of(found, pipe, profile, prompts, name)
    return BiasNeurons(pipe.unet, chosen, profile.finetune_of(name).acts_from)


def _instead_of(
    found: NeuronSet, pipe: StableDiffusionPipeline, profile: Profile, prompts: PromptSet, name: str
) -> NeuronSet:
    """The weights that an experiment trains: by its `choice` those found, or as many others as a control.

    `random`: random weights of the same tensors; `anywhere`: of the whole U-Net; `largest`: those of largest |weight|;
    `gradient`: of the largest mean gradient, without counts and families; `moved`: those that the training of all
    weights in the experiment `dense` has moved most.
    """
    experiment, unet, count = profile.experiments[name], pipe.unet, count_neurons(found)
    match experiment.choice:
        case "random":
            return random_like(found, unet, profile.seed)
        case "anywhere":
            return random_anywhere(found, unet, profile.seed)
        case "largest":
            values = torch.cat([weight.detach().abs().flatten().float().cpu() for weight in unet.parameters()])
        case "gradient":
            place = {"contents": prompts.contents, "contexts": prompts.contexts}
            chosen = profile.locate_of(name).model_dump(include={"timestep", "noises", "tensors"})
            how = {**chosen, "seed": profile.seed, **place}
            of = [
                mean_gradient(pipe, get_attribute(attribute), prompts.split("train"), **how)
                for attribute in experiment.shares
            ]
            values = sum(of)
        case "moved":
            path = profile.folder / "experiments" / "dense" / "patch.safetensors"
            if not path.is_file():
                raise UserError(f"{path} is missing: run the experiment dense (adapter full, parts [unet]) first")
            dense, weights = load_full(path, pipe).tensors(), unet.named_parameters()
            moved = [
                dense.get(f"unet.{name}", weight.detach().cpu()) - weight.detach().cpu() for name, weight in weights
            ]
            values = torch.cat([change.abs().flatten() for change in moved])
        case _:
            return found
    return largest(values, count, unet)


def find_neurons(
    pipe: StableDiffusionPipeline,
    attribute: str,
    profile: Profile,
    prompts: PromptSet,
    path: str | Path,
    shard: Shard | None = None,
) -> NeuronSet | None:
    """Locate the bias neurons of an attribute on the train occupations, and write them to `path` with their settings.

    Of several attributes, "gender+age", the union. A path that ends in .txt gets the form that Bias Neurons publishes.
    A `shard` counts on its share of the occupations, writes that beside `path` and returns None; a later call without
    one joins the parts.
    """
    state, names, path = processes(), attribute.split("+"), Path(path)
    place = {"contents": prompts.contents, "contexts": prompts.contexts, "seed": profile.seed}
    how = profile.locate.model_dump(include={"timestep", "noises", "tensors"})
    how["k"] = max(1, round(profile.locate.k * sum(weight.numel() for weight in pipe.unet.parameters())))
    train, identity = prompts.split("train"), _identity_of_neurons(pipe, attribute, profile, prompts)
    whole = path.with_suffix(".safetensors")
    if shard:
        if not is_done(shard.part(whole), lambda part: load_tensors(part, identity)):
            counts = {}
            for name in names:
                pairs = contrast_pairs(get_attribute(name), train, **place)
                own = pairs[pairs.occupation.isin(shard.of(train))]
                counted = count_kept(pipe, own, seed=profile.seed, **how)
                counts |= {f"{name}.{family}": values for family, values in counted.items()}
            if state.is_main_process:
                save_tensors(counts, shard.part(whole), identity)
        return None
    parts = find_parts(whole)
    counts = {}
    for part in parts:
        for key, counted in load_tensors(part, identity).items():
            counts[key] = counts[key] + counted if key in counts else counted
    found = []
    for name in names:
        own = {family: counts[f"{name}.{family}"] for family in FAMILIES} if parts else None
        joined = {"frequency": profile.locate.frequency, "counted": own}
        found.append(locate(pipe, get_attribute(name), train, **place, **how, **joined))
    neurons = reduce(union, [each.neurons for each in found])
    about = found[0].settings | {"attribute": attribute, "found": count_neurons(neurons)} | {"identity": identity}
    if state.is_main_process:
        if path.suffix == ".txt":
            write_flat_text(neurons, path, pipe.unet)
        else:
            save_neurons(neurons, path, {key: json.dumps(value) for key, value in about.items()})
        remove_parts(parts)
    state.wait_for_everyone()
    return neurons


def _identity_of_neurons(pipe: StableDiffusionPipeline, attribute: str, profile: Profile, prompts: PromptSet) -> dict:
    words = hashed([prompts.split("train"), prompts.contents, prompts.contexts])
    about = {"attribute": attribute, "locate": profile.locate.model_dump(), "seed": profile.seed}
    return about | {"prompts": words, "model": model_identity(pipe)}


def _neurons(
    pipe: StableDiffusionPipeline, attribute: str, profile: Profile, prompts: PromptSet, name: str
) -> NeuronSet:
    """Load the neurons of an attribute, or locate them; experiments that locate alike share a file."""
    experiment = profile.experiments[name]
    own = "".join(f"_{key}_{value}" for key, value in sorted(experiment.locate.items()))
    profile = profile.model_copy(update={"locate": profile.locate_of(name)})
    path = profile.folder / "experiments" / f"neurons_{attribute}{own}.safetensors"
    there = read_settings(path).get("identity", {}) if path.is_file() else None
    current = is_current(path, there, _identity_of_neurons(pipe, attribute, profile, prompts))
    return load_neurons(path) if current else find_neurons(pipe, attribute, profile, prompts, path)


def is_current(path: Path, there: dict | None, now: dict) -> bool:
    """Whether the stored thing at `path` was made by this run; if not, say why it is made anew."""
    differs = "" if there is None else difference(there, now)
    state = processes()
    if differs and state.is_main_process:
        print(f"{path} is made anew: {differs}", flush=True)
    state.wait_for_everyone()  # no process writes before all have looked
    return there is not None and not differs


def make_h_guidance(
    pipe: StableDiffusionPipeline, vision: VisionModels, prompts: PromptSet, profile: Profile, name: str
) -> tuple[HGuidance, float]:
    """Return the h-guidance of an experiment and the minutes that training its h-classifiers took.

    There is one h-classifier per attribute, which experiments with the same settings share.
    """
    experiment = profile.experiments[name]
    made = [_h_classifier(pipe, vision, attribute, prompts, profile, experiment) for attribute in experiment.shares]
    classifiers = [each.classifiers[attribute] for each, attribute in zip(made, experiment.shares, strict=True)]
    settings = experiment.h_guidance.model_dump(exclude={"images"})
    return HGuidance(classifiers, experiment.shares, **settings), sum(each.metadata["minutes"] for each in made)


def _h_classifier(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    attribute: str,
    prompts: PromptSet,
    profile: Profile,
    experiment: Experiment,
) -> HGuidance:
    """Load an h-classifier (stored as h-guidance of strength 0), or train it if there is none of these settings."""
    path, state = profile.folder / "experiments" / f"h_{attribute}.safetensors", processes()
    how = {"images": experiment.h_guidance.images, "seed": profile.seed}
    train = prompts.prompts("train", experiment.prompts)
    identity = _identity_of_h(pipe, vision, train, profile, how)
    there = load_h_guidance(path, pipe.device).metadata.get("identity", {}) if path.is_file() else None
    if not is_current(path, there, identity):
        started = time.perf_counter()
        captured = capture_h(pipe, vision, attribute, train, sampling=profile.sampling, **how)
        made = h_classifier_from_captured(captured, attribute, seed=profile.seed, device=pipe.device)
        about = {"identity": identity, "minutes": (time.perf_counter() - started) / 60}
        if state.is_main_process:
            shares = np.full(len(made.classes), 1 / len(made.classes))
            HGuidance([made], {attribute: shares}, 0.0, reliable=0.0).save(path, about)
        state.wait_for_everyone()
    return load_h_guidance(path, pipe.device)


def _identity_of_h(pipe, vision: VisionModels, train: Sequence[str], profile: Profile, how: Mapping[str, int]) -> dict:
    identity = {**how, "prompts": hashed(train), "sampling": profile.sampling.model_dump()}
    return identity | {"model": model_identity(pipe), "vision": vision.identity()}


def h_classifiers(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    attributes: Sequence[str],
    images: int,
    profile: Profile,
    prompts: PromptSet,
    path: str | Path,
    shard: Shard | None = None,
) -> list[HClassifier] | None:
    """Train h-classifiers of attributes on `images` images of each train prompt and class.

    A `shard` draws the images of its share of the prompts, writes h beside `path` and returns None; a later call
    without one trains on all parts.
    """
    how, train = {"images": images, "seed": profile.seed}, prompts.prompts("train")
    identity = _identity_of_h(pipe, vision, train, profile, how) | {"attributes": list(attributes)}

    def captured(own: Sequence[str]) -> dict[str, torch.Tensor]:
        found = {}
        for name in attributes:
            each = capture_h(pipe, vision, name, own, sampling=profile.sampling, **how)
            found |= {f"{name}/{key}": values for key, values in each.items()}
        return found

    if shard:
        if not is_done(shard.part(path), lambda part: load_tensors(part, identity)):
            tensors = captured(shard.of(train))
            if processes().is_main_process:
                save_tensors(tensors, shard.part(path), identity)
        return None
    parts = [load_tensors(part, identity) for part in find_parts(path)]
    whole = {key: interleave([part[key] for part in parts]) for key in parts[0]} if parts else captured(train)
    made = []
    for name in attributes:
        own = {key.removeprefix(f"{name}/"): values for key, values in whole.items() if key.startswith(f"{name}/")}
        made.append(h_classifier_from_captured(own, name, seed=profile.seed, device=pipe.device))
    return made


def make_class_directions(
    pipe: StableDiffusionPipeline, shares: Mapping[str, Sequence[float]], prompts: PromptSet, profile: Profile
) -> ClassDirections:
    """Measure the directions of attributes on the train occupations, an image of each class, and fit the gate."""
    how = {"images": 1, "sampling": profile.sampling, "seed": profile.seed}
    measured = [directions_from_prompts(pipe, name, prompts.prompts("train"), **how) for name in shares]
    return ClassDirections(measured, shares, fit_gate(pipe, list(shares), prompts, profile.seed, profile.attributes))


def make_class_tokens(
    pipe: StableDiffusionPipeline, shares: Mapping[str, Sequence[float]], prompts: PromptSet, profile: Profile
) -> ClassTokens:
    """Read the class tokens of attributes, and fit the gate on the train occupations."""
    words = {name: class_tokens(pipe, name) for name in shares}
    return ClassTokens(words, shares, fit_gate(pipe, list(shares), prompts, profile.seed, profile.attributes))
