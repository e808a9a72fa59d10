"""The evaluation that all methods share."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.h_guidance import HGuidance
from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.pipeline import processes
from fairnb.measure import metrics
from fairnb.measure.generate import generate
from fairnb.measure.images import load_image
from fairnb.measure.judge import judge_images
from fairnb.measure.records import read_records, write_records
from fairnb.profiles import Experiment, Profile
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import PromptSet, prompt_rows
from fairnb.prompts.templates import draw_words, photo_of
from fairnb.vision.classifiers import Classifier
from fairnb.vision.perception import SURE, VisionModels

DRIFT_IMAGES = 8  # of each prompt without people, where the evaluation has as many


def evaluate(
    pipe: StableDiffusionPipeline,
    adapter: Adapter | HGuidance | None,
    vision: VisionModels,
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
            write_records(judge_images(place / "images", vision.detector, judge), place / "records.parquet")
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
            rows = named_prompt_rows(words, name)
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
            np.mean([_clip_i(vision, originals / kind / "images", folder / kind / "images") for kind in test])
        ),
        "drift": 1 - _clip_i(vision, unchanged, changed),
    }


def named_prompt_rows(words: PromptSet, attribute: str) -> pd.DataFrame:
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
def _clip_i(vision: VisionModels, one: Path, two: Path, batch: int = 64) -> float:
    """Mean cosine of the pictures of two folders of `generate`, as CLIP sees them."""
    names = sorted(path.relative_to(one) for path in one.glob("prompt_*/img_*.png"))
    cosines = []
    for start in range(0, len(names), batch):
        features = []
        for place in (one, two):
            images = torch.stack([load_image(place / name) for name in names[start : start + batch]])
            features.append(vision.clip.image_features(images.to(vision.clip.mean.device)))
        cosines.append((features[0] * features[1]).sum(1))
    return torch.cat(cosines).mean().item()
