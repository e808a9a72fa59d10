"""Run an experiment: train one adapter for one target, evaluate it beside the original model, and store the result."""

import time
from pathlib import Path

from diffusers import StableDiffusionPipeline

from fairnb.adapters.load import load_adapter
from fairnb.adapters.text_noise import TextNoise
from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.pipeline import processes
from fairnb.errors import Diverged
from fairnb.experiments.evaluation import evaluate
from fairnb.experiments.methods import (
    is_current,
    make_adapter,
    make_class_directions,
    make_class_tokens,
    make_h_guidance,
    target_shares,
)
from fairnb.files import read_json, write_json
from fairnb.identity import content, hashed, refuse_another
from fairnb.measure.provenance import provenance
from fairnb.memory import device_peak, reset_device_peak
from fairnb.profiles import WITHOUT_EFFECT, Profile
from fairnb.prompts.sets import PromptSet
from fairnb.training.alignment import AlignmentRun
from fairnb.training.contrastive import ContrastiveRun
from fairnb.training.triplets import METADATA
from fairnb.vision.classifiers import Classifier
from fairnb.vision.perception import VisionModels, classifier_hash

UNTRAINED = ("words", "noise")  # which have no file


def run_experiment(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    judge: Classifier,
    prompts: PromptSet,
    profile: Profile,
    name: str,
    originals: dict | None = None,
) -> dict:
    """Train and evaluate an experiment of the profile; return its result, which is also written to result.json.

    Everything lies in <profile's folder>/experiments/<name>. Finished steps are not repeated, and a killed run resumes.
    Experiments of one model and seed may share the cache `originals` (see `AlignmentRun`). A result of another
    evaluation is replaced. The result of a training that diverges says so under `diverged`, and holds no figures.
    `UserError` if the folder holds another training.
    """
    experiment = profile.experiments[name]
    folder, state = profile.folder / "experiments" / name, processes()
    training = _identity(pipe, vision, prompts, profile, name)
    identity = training | {"evaluate": profile.evaluate.model_dump(), "judge": classifier_hash(judge)}
    _check_plan(folder, training)
    patch, result, costs = folder / "patch.safetensors", folder / "result.json", folder / "costs.json"
    there = read_json(result) if result.is_file() else None
    done = is_current(result, None if there is None else there.get("identity", {}), identity)
    found = {}
    if not (patch.is_file() or experiment.adapter in UNTRAINED or (done and "diverged" in there)):
        resumed, started = (folder / "checkpoint.pt").is_file(), time.perf_counter()
        reset_device_peak()
        try:
            minutes = _train(pipe, vision, prompts, profile, name, {} if originals is None else originals)
        except Diverged as error:
            minutes, found = None, {"diverged": str(error)}
        if state.is_main_process and not resumed:
            minutes = minutes or (time.perf_counter() - started) / 60
            write_json(costs, {"minutes": minutes, "memory": device_peak()})
    if not done:
        if experiment.adapter == "noise":
            adapter = TextNoise()
        else:
            adapter = load_adapter(patch, pipe) if patch.is_file() else None
        found = found or evaluate(pipe, adapter, vision, judge, prompts, profile, experiment, folder)
        about = {
            "experiment": name,
            "adapter": experiment.adapter,
            "seed": profile.seed,
            "minutes": None,  # those of the training; unknown of one that was killed and resumed
            "memory": None,  # MB that it held at its peak
            "parameters": sum(parameter.numel() for parameter in adapter.parameters()) if adapter else 0,
            "megabytes": patch.stat().st_size / 1e6 if patch.is_file() else 0.0,
            "validation_bias": adapter.metadata.get("validation_bias") if adapter else None,  # as the guide sees it
        }
        about |= read_json(costs) if costs.is_file() else {}
        own = profile.model_copy(update={"experiments": {name: experiment}})
        if state.is_main_process:
            write_json(result, about | found | {"identity": identity, "provenance": provenance(own)})
        state.wait_for_everyone()
    return read_json(result)


def _identity(pipe, vision: VisionModels, prompts: PromptSet, profile: Profile, name: str) -> dict:
    """What decides the training of an experiment (see `fairnb.identity`)."""
    experiment, settings = profile.experiments[name], profile.finetune_of(name)
    identity = {
        "experiment": experiment.model_dump(exclude={"finetune", "locate"}),
        "finetune": settings.model_dump(exclude=set(WITHOUT_EFFECT)),
        "sampling": profile.sampling.model_dump(),
        "seed": profile.seed,
        "prompts": hashed(prompts.model_dump()),
        "model": model_identity(pipe),
        "vision": vision.identity(),
    }
    if experiment.adapter == "neurons":
        identity["locate"] = profile.locate_of(name).model_dump()
        if experiment.choice == "moved":
            identity["dense"] = content(profile.folder / "experiments" / "dense" / "patch.safetensors")
    if experiment.contrast:
        identity["triplets"] = content(profile.folder / "triplets" / METADATA)
    return identity


def _check_plan(folder: Path, identity: dict) -> None:
    """Write the identity of the training; `UserError` if the folder holds another one."""
    path, state = folder / "plan.json", processes()
    begun = {file.name for file in folder.glob("[!.]*")} - {"plan.json"}  # a plan alone is that of a refused run
    if begun and path.is_file():
        refuse_another(read_json(path), identity, str(folder), "delete it or choose another output")
    state.wait_for_everyone()
    if state.is_main_process:
        write_json(path, identity)


def _train(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    prompts: PromptSet,
    profile: Profile,
    name: str,
    originals: dict,
) -> float | None:
    """Train the adapter of an experiment and write its patch; return the minutes if they differ from those of the
    call."""
    experiment, settings, state = profile.experiments[name], profile.finetune_of(name), processes()
    folder = profile.folder / "experiments" / name
    own = prompts.fewer(experiment.occupations) if experiment.occupations else prompts
    record = {"experiment": name, "adapter": experiment.adapter, "prompts": experiment.prompts}
    if experiment.adapter in ("h_guidance", "directions", "class_tokens"):
        if experiment.adapter == "h_guidance":
            steering, minutes = make_h_guidance(pipe, vision, own, profile, name)
        else:
            make = make_class_directions if experiment.adapter == "directions" else make_class_tokens
            steering, minutes = make(pipe, experiment.shares, own, profile), None
        if state.is_main_process:
            steering.save(folder / "patch.safetensors", record)
        state.wait_for_everyone()
        return minutes
    adapter = make_adapter(pipe, name, profile, prompts)
    # Originals are shared between experiments that generate the same images and align the same attributes.
    alike = (settings.pool, *(settings.steps or ()), settings.face_weight > 0, *experiment.shares)
    cache = originals.setdefault(alike, {})
    shares = target_shares(experiment)
    run = AlignmentRun(pipe, adapter, vision, shares, settings, profile.sampling, profile.seed, cache)
    train, validation = (own.prompts(split, experiment.prompts) for split in ("train", "validation"))
    if experiment.contrast:
        how = experiment.contrast.model_dump()
        contrast = ContrastiveRun(pipe, adapter, profile.folder / "triplets", settings, profile.seed, **how)
        contrast.train(lambda: run.validate(validation), folder, run.training_record() | record)
    else:
        run.train(train, validation, folder, record)
    return None
