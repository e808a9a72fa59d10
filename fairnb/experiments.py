"""An experiment: train one adapter for one target, and let the judge see what it does beside the original model.

FFD's exp-1 to exp-6 (Shen et al., ICLR 2024), their like with bias neurons, and guided sampling (Balancing Act) are
values of the profile's `experiments`; they differ in adapter, shares and prompts, and share one evaluation. What trains
weights shares one loop (`finetune`).
"""

import json
import time
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from fairnb import metrics
from fairnb.adapters import Adapter, BiasNeurons
from fairnb.attributes import get_attribute
from fairnb.classifiers import Classifier
from fairnb.contrastive import Contrast
from fairnb.errors import UserError
from fairnb.eyes import SURE, Eyes
from fairnb.finetune import Alignment
from fairnb.generate import generate, load_image, look
from fairnb.guidance import Guidance, load_guidance
from fairnb.hspace import from_prompts
from fairnb.lora import LoRA
from fairnb.neurons import NeuronSet, load_neurons, locate, save_neurons, union
from fairnb.pipeline import processes
from fairnb.prefix import PrefixTokens
from fairnb.profiles import Experiment, Profile
from fairnb.prompts import PromptSet, draw_words, photo_of, prompt_rows
from fairnb.records import provenance, read_json, read_records, write_json, write_records
from fairnb.released import load_adapter

DRIFT_IMAGES = 8  # of each prompt without people, where the evaluation has as many


def shares_of(experiment: Experiment) -> dict[str | tuple[str, ...], np.ndarray]:
    """The shares as `Alignment` wants them: jointly the product [K1, K2, ...] of the attributes' own, else each [K]."""
    if len(experiment.shares) == 1 or not experiment.joint:
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


def make_guidance(
    pipe: StableDiffusionPipeline, eyes: Eyes, words: PromptSet, profile: Profile, name: str
) -> tuple[Guidance, float]:
    """The guidance of an experiment, and the minutes its h-classifiers took to make: one for each attribute, made once
    for all experiments that ask for the same."""
    experiment = profile.experiments[name]
    made = [_h_classifier(pipe, eyes, attribute, words, profile, experiment) for attribute in experiment.shares]
    classifiers = [each.classifiers[attribute] for each, attribute in zip(made, experiment.shares, strict=True)]
    settings = experiment.guidance.model_dump(exclude={"images"})
    return Guidance(classifiers, experiment.shares, **settings), sum(each.metadata["minutes"] for each in made)


def _h_classifier(
    pipe: StableDiffusionPipeline,
    eyes: Eyes,
    attribute: str,
    words: PromptSet,
    profile: Profile,
    experiment: Experiment,
) -> Guidance:
    """The file of one h-classifier, a guidance of no strength; trained anew where it is of other settings."""
    path, state = profile.folder / "experiments" / f"h_{attribute}.safetensors", processes()
    how = {"images": experiment.guidance.images, "seed": profile.seed}
    about = how | {"model": profile.model, "prompts": experiment.prompts, "sampling": profile.sampling.model_dump()}
    there = path.is_file() and about.items() <= load_guidance(path, pipe.device).metadata.items()
    state.wait_for_everyone()  # every process has looked before one of them writes
    if not there:
        started = time.perf_counter()
        prompts = words.prompts("train", experiment.prompts)
        made = from_prompts(pipe, eyes, attribute, prompts, sampling=profile.sampling, **how)
        about["minutes"] = (time.perf_counter() - started) / 60
        if state.is_main_process:
            shares = np.full(len(made.classes), 1 / len(made.classes))
            Guidance([made], {attribute: shares}, 0.0, reliable=0.0).save(path, about)
        state.wait_for_everyone()
    return load_guidance(path, pipe.device)


def run_experiment(
    pipe: StableDiffusionPipeline,
    eyes: Eyes,
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
        if experiment.adapter == "guidance":
            guidance, minutes = make_guidance(pipe, eyes, words, profile, name)
            if state.is_main_process:
                guidance.save(folder / "patch.safetensors", record)
            state.wait_for_everyone()
        else:
            adapter = make_adapter(pipe, name, profile, words)
            # Originals are shared where they were drawn alike and the eyes looked for the same.
            alike = (settings.pool, *(settings.steps or ()), settings.face_weight > 0, *experiment.shares)
            looked = known.setdefault(alike, {})
            shares, sampling = shares_of(experiment), profile.sampling
            run = Alignment(pipe, adapter, eyes, shares, settings, sampling, profile.seed, looked)
            train, validation = (words.prompts(split, experiment.prompts) for split in ("train", "validation"))
            if experiment.contrast:
                how = experiment.contrast.model_dump()
                contrast = Contrast(pipe, adapter, profile.folder / "triplets", settings, profile.seed, **how)
                contrast.train(lambda: run.validate(validation), folder, run.about() | record)
            else:
                run.train(train, validation, folder, record)
        if state.is_main_process and not resumed:
            write_json(folder / "minutes.json", minutes or (time.perf_counter() - started) / 60)
    if todo[1]:
        file = folder / "patch.safetensors"
        adapter = load_adapter(file, pipe) if file.is_file() else None
        result = evaluate(pipe, adapter, eyes, judge, words, profile, experiment, folder)
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


def evaluate(
    pipe: StableDiffusionPipeline,
    adapter: Adapter | Guidance | None,
    eyes: Eyes,
    judge: Classifier,
    words: PromptSet,
    profile: Profile,
    experiment: Experiment,
    folder: str | Path,
) -> dict:
    """What the judge sees of the test prompts with and without an adapter, and what the adapter costs. Without one the
    experiment draws words of classes into the plain prompts.

    Per kind of prompts `bias` and `share` (see `_compared`); `obeyed`, the part of the pictures that show the class
    which their prompt names; `sure`, that of the faces of whose classes the judge is sure, and `faces` found, before
    and after; `clip_i`, the mean cosine of a picture to the original of the same noise; `drift`, 1 - that cosine on
    prompts without people, which should not change at all. `trained`, the bias of the prompts that were trained on,
    from noise that was not: what the adapter learned, where `kinds` tells what of it holds for other words. Records and
    pictures stay in `folder`.
    """
    folder, originals = Path(folder), profile.folder / "experiments" / "original"
    names, state = list(experiment.shares), processes()

    def drawn(place: Path, rows: pd.DataFrame, images: int, seed: int = profile.seed) -> Path:
        how = {"images": images, "seed": seed, "replace": True, **profile.sampling.model_dump()}
        return generate(pipe, rows, folder=place / "images", **how)

    def seen(place: Path, rows: pd.DataFrame, images: int, seed: int = profile.seed) -> pd.DataFrame:
        drawn(place, rows, images, seed)
        if state.is_main_process:
            write_records(look(place / "images", eyes.detector, judge), place / "records.parquet")
        state.wait_for_everyone()
        return read_records(place / "records.parquet")

    test = {kind: prompt_rows(words, "test", kinds=[kind]) for kind in experiment.prompts}
    contents = pd.DataFrame(
        [(i, photo_of(name), None, "test") for i, name in enumerate(words.contents)],
        columns=["prompt_id", "prompt", "occupation", "split"],
    )

    def named(rows: pd.DataFrame, images: int, seed: int = profile.seed) -> pd.DataFrame:
        return draw_words(rows, experiment.shares, images, seed) if adapter is None else rows

    if adapter:
        adapter.remove(pipe)
    before = {kind: seen(originals / kind, rows, profile.evaluate.images) for kind, rows in test.items()}
    taught = {kind: prompt_rows(words, "train", kinds=[kind]) for kind in experiment.prompts}
    few = (profile.evaluate.explicit_images, profile.seed + 1)  # noise of another seed: no training has seen it
    learned = {kind: [seen(originals / f"trained_{kind}", rows, *few)] for kind, rows in taught.items()}
    some = min(DRIFT_IMAGES, profile.evaluate.images)
    unchanged = drawn(originals / "contents", contents, some)
    if adapter:
        adapter.apply(pipe)
    try:
        every = profile.evaluate.images
        after = {kind: seen(folder / kind, named(rows, every), every) for kind, rows in test.items()}
        for kind, rows in taught.items():
            learned[kind].append(seen(folder / f"trained_{kind}", named(rows, *few), *few))
        changed = drawn(folder / "contents", contents, some)
        obeyed = {}
        for name in names:
            rows = explicit_rows(words, name)
            records = seen(folder / f"named_{name}", rows, profile.evaluate.explicit_images)
            asked = records.prompt_id.map(dict(zip(rows.prompt_id, rows.asked, strict=True)))
            obeyed[name] = float((records[name] == asked).mean())
    finally:
        if adapter:
            adapter.remove(pipe)
    every = {"before": pd.concat(before.values()), "after": pd.concat(after.values())}
    return {
        "kinds": {kind: _compared(before[kind], after[kind], names, profile.seed) for kind in test},
        "trained": {kind: _compared(*records, names, profile.seed)["bias"] for kind, records in learned.items()},
        "obeyed": obeyed,
        "sure": {when: _sure(records, names) for when, records in every.items()},
        "faces": {when: float(records.face.mean()) for when, records in every.items()},
        "clip_i": float(
            np.mean([_clip_i(eyes, originals / kind / "images", folder / kind / "images") for kind in test])
        ),
        "drift": 1 - _clip_i(eyes, unchanged, changed),
    }


def read_results(places: Sequence[str | Path]) -> list[dict]:
    """The results that `run_experiment` left in the output folders of one profile, and those of files that
    `fairnb results --out` wrote; of two results of one experiment and seed the later place's. `UserError` where a place
    holds none."""
    found = {}
    for place in map(Path, places):
        paths = sorted(place.glob("experiments/*/result.json"))
        results = read_json(place) if place.is_file() else [read_json(path) for path in paths]
        if not results:
            raise UserError(f"{place} holds no experiment: run fairnb experiment first")
        try:
            found |= {(result["experiment"], result["seed"]): result for result in results}
        except (KeyError, TypeError) as error:
            raise UserError(f"{place} is not a file of results: give one that fairnb results --out wrote") from error
    return list(found.values())


def table(results: list[dict]) -> pd.DataFrame:
    """Results as a table: a row for each experiment, kind of prompts and attribute, means over the seeds.

    `before`, `after` and `ratio` are bias, with the standard deviation over seeds (`sd`) of after; `trained` is that
    of the prompts which were trained on; `faces` is the share of pictures in which one is found, after; `share` and
    `spread` are the last class's mean share and its standard deviation over prompts, before and after.
    """
    rows = []
    for result in results:
        for kind, compared in result["kinds"].items():
            for attribute, bias in compared["bias"].items():
                row = {"experiment": result["experiment"], "prompts": kind, "attribute": attribute}
                row |= {"seed": result["seed"], "before": bias["before"]["mean"], "after": bias["after"]["mean"]}
                taught = result["trained"][kind][attribute]
                row |= {f"trained {when}": taught[when]["mean"] for when in ("before", "after")}
                row |= {"obeyed": result["obeyed"].get(attribute), "sure": result["sure"]["after"].get(attribute)}
                row |= {"faces": result["faces"]["after"]}
                for when, values in compared["share"].get(attribute, {}).items():
                    row |= {f"share {when}": values["mean"], f"spread {when}": values["std"]}
                costs = ("clip_i", "drift", "minutes", "parameters", "megabytes")
                rows.append(row | {key: np.nan if result[key] is None else result[key] for key in costs})
    keys = ["experiment", "prompts", "attribute"]
    groups = pd.DataFrame(rows).groupby(keys, sort=False)
    means = groups.mean().drop(columns="seed")
    means.insert(0, "seeds", groups.seed.nunique())
    means.insert(3, "sd", groups.after.std())
    means.insert(4, "ratio", means.after / means.before)
    return means.round(3)


def explicit_rows(words: PromptSet, attribute: str) -> pd.DataFrame:
    """Prompts that name each class of an attribute for each test occupation, with the class in `asked`."""
    about, tables = get_attribute(attribute), []
    for number, (name, word) in enumerate(zip(about.classes, about.words, strict=True)):
        rows = prompt_rows(words, "test", word=word)
        tables.append(rows.assign(prompt_id=rows.prompt_id + number * len(words.all()), asked=name))
    return pd.concat(tables, ignore_index=True)


def _compared(before: pd.DataFrame, after: pd.DataFrame, names: list[str], seed: int) -> dict:
    """`bias` of each attribute, and of all together, before and after (`metrics.summarise`) with the paired `change`;
    `share` of the last class of each attribute of two: mean and std over prompts."""
    keys = [*names, "+".join(names)] if len(names) > 1 else names
    bias, share = {}, {}
    for key in keys:
        bias[key] = {
            "before": metrics.summarise(before, key, seed),
            "after": metrics.summarise(after, key, seed),
            "change": metrics.paired_difference(before, after, key, seed),
        }
    for name in names:
        classes = get_attribute(name).classes
        if len(classes) == 2:
            shares = [metrics.frequencies(records, name)[classes[1]] for records in (before, after)]
            share[name] = {
                when: {"mean": values.mean(), "std": values.std()}
                for when, values in zip(("before", "after"), shares, strict=True)
            }
    return {"bias": bias, "share": share}


def _sure(records: pd.DataFrame, names: list[str]) -> dict[str, float]:
    faces = records[records.face]
    columns = {name: [f"{name}_{label}" for label in get_attribute(name).classes] for name in names}
    return {name: float((faces[labels].max(axis=1) >= SURE).mean()) for name, labels in columns.items()}


@torch.no_grad()
def _clip_i(eyes: Eyes, one: Path, two: Path, batch: int = 64) -> float:
    """Mean cosine of the pictures of two folders of `generate`, as CLIP sees them."""
    names = sorted(path.relative_to(one) for path in one.glob("prompt_*/img_*.png"))
    cosines = []
    for start in range(0, len(names), batch):
        features = []
        for place in (one, two):
            images = torch.stack([load_image(place / name) for name in names[start : start + batch]])
            features.append(eyes.clip.image_features(images.to(eyes.clip.mean.device)))
        cosines.append((features[0] * features[1]).sum(1))
    return torch.cat(cosines).mean().item()
