"""Run an experiment: train one adapter for one target and evaluate it."""

import json
import time

from diffusers import StableDiffusionPipeline

from fairnb.adapters.load import load_adapter
from fairnb.diffusion.pipeline import processes
from fairnb.errors import UserError
from fairnb.experiments.evaluation import evaluate
from fairnb.experiments.methods import make_adapter, make_h_guidance, target_shares
from fairnb.files import read_json, write_json
from fairnb.measure.provenance import provenance
from fairnb.profiles import Profile
from fairnb.prompts.sets import PromptSet
from fairnb.training.alignment import AlignmentRun
from fairnb.training.contrastive import ContrastiveRun
from fairnb.vision.classifiers import Classifier
from fairnb.vision.perception import VisionModels


def run_experiment(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    judge: Classifier,
    words: PromptSet,
    profile: Profile,
    name: str,
    known: dict | None = None,
) -> dict:
    """Train an experiment of the profile, evaluate it, and return its result (also written to result.json).

    Everything lies in <profile's folder>/experiments/<name>. What is there is not done again; a killed run goes on.
    Experiments of the same model, seed and noises may share `known`: originals (see `Alignment`).
    `UserError` when the folder holds a run of other settings.
    """
    experiment, settings = profile.experiments[name], profile.finetune_of(name)
    folder = profile.folder / "experiments" / name
    plan = {"experiment": experiment.model_dump(), "finetune": settings.model_dump(), "seed": profile.seed}
    there = {path.name for path in folder.glob("*")} - {"plan.json"}  # a plan alone is that of a refused wish
    if there and (folder / "plan.json").is_file() and read_json(folder / "plan.json") != json.loads(json.dumps(plan)):
        raise UserError(f"{folder} holds a run of other settings: delete it or choose another output")
    state = processes()
    todo = [not (folder / name).is_file() for name in ("patch.safetensors", "result.json")]
    todo[0] &= experiment.adapter != "words"  # which trains nothing
    state.wait_for_everyone()  # every process has looked before one of them writes
    if state.is_main_process:
        write_json(folder / "plan.json", plan)
    if todo[0]:
        known = {} if known is None else known
        record = {"experiment": name, "adapter": experiment.adapter, "prompts": experiment.prompts}
        resumed, started, minutes = (folder / "checkpoint.pt").is_file(), time.perf_counter(), None
        if experiment.adapter == "h_guidance":
            guidance, minutes = make_h_guidance(pipe, vision, words, profile, name)
            if state.is_main_process:
                guidance.save(folder / "patch.safetensors", record)
            state.wait_for_everyone()
        else:
            adapter = make_adapter(pipe, name, profile, words)
            # Originals are shared where they were drawn alike and the eyes looked for the same.
            alike = (settings.pool, *(settings.steps or ()), settings.face_weight > 0, *experiment.shares)
            looked = known.setdefault(alike, {})
            shares, sampling = target_shares(experiment), profile.sampling
            run = AlignmentRun(pipe, adapter, vision, shares, settings, sampling, profile.seed, looked)
            train, validation = (words.prompts(split, experiment.prompts) for split in ("train", "validation"))
            if experiment.contrast:
                how = experiment.contrast.model_dump()
                contrast = ContrastiveRun(pipe, adapter, profile.folder / "triplets", settings, profile.seed, **how)
                contrast.train(lambda: run.validate(validation), folder, run.about() | record)
            else:
                run.train(train, validation, folder, record)
        if state.is_main_process and not resumed:
            write_json(folder / "minutes.json", minutes or (time.perf_counter() - started) / 60)
    if todo[1]:
        file = folder / "patch.safetensors"
        adapter = load_adapter(file, pipe) if file.is_file() else None
        result = evaluate(pipe, adapter, vision, judge, words, profile, experiment, folder)
        about = {"experiment": name, "adapter": experiment.adapter, "seed": profile.seed}
        timed = folder / "minutes.json"  # missing where a run was killed and went on: nobody knows the whole
        about["minutes"] = read_json(timed) if timed.is_file() else None
        about["parameters"] = sum(parameter.numel() for parameter in adapter.parameters()) if adapter else 0
        about["megabytes"] = file.stat().st_size / 1e6 if adapter else 0.0
        if state.is_main_process:
            own = profile.model_copy(update={"experiments": {name: experiment}})
            write_json(folder / "result.json", about | result | {"provenance": provenance(own)})
        state.wait_for_everyone()
    return read_json(folder / "result.json")
