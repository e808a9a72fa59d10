"""One evaluation for every method: generate, judge, compare before and after, and check what must not break."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN

from fairnb.adapters.h_space import Steering
from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.pipeline import processes
from fairnb.figures.pictures import before_after
from fairnb.figures.style import save_figure
from fairnb.files import read_json, write_json
from fairnb.identity import hashed
from fairnb.measure.generate import PLAN, generate
from fairnb.measure.judge import judge_images
from fairnb.measure.metrics import (
    diversity,
    fairness_discrepancy,
    frequencies,
    paired_difference,
    summarise,
    sure_share,
    worst_tenth,
)
from fairnb.measure.records import read_records, write_records
from fairnb.measure.similarity import image_features, image_set, kid, mean_image_similarity, variety
from fairnb.profiles import Experiment, Profile
from fairnb.prompts.attributes import get_attribute, joint_attribute
from fairnb.prompts.sets import OCCUPATIONS, PromptSet, evenly, prompt_rows
from fairnb.prompts.templates import draw_words, photo_of
from fairnb.vision.classifiers import Classifier
from fairnb.vision.encoders import Clip, Dino
from fairnb.vision.perception import VisionModels, classifier_hash

DRIFT_IMAGES = 8  # per prompt without people, if the evaluation has as many
NAMED_OCCUPATIONS = 16  # evenly spaced, at most: enough to tell whether a named class is obeyed
STYLES = ("drawing", "painting")  # of prompts that are said otherwise
TRAINED_PROMPTS = 32  # of each kind, at most: enough to tell whether the held-out ones end like them


def named_prompt_rows(prompts: PromptSet, attribute: str, split: str = "test") -> pd.DataFrame:
    """Rows of the prompts that name each class of an attribute for some occupations; the class is in `asked`."""
    about, tables = get_attribute(attribute), []
    for number, (name, word) in enumerate(zip(about.classes, about.words, strict=True)):
        rows = evenly(prompt_rows(prompts, split, word=word), NAMED_OCCUPATIONS)
        tables.append(rows.assign(prompt_id=rows.prompt_id + number * len(prompts.all()), asked=name))
    return pd.concat(tables, ignore_index=True)


def phrasing_rows(prompts: PromptSet) -> pd.DataFrame:
    """Rows of test occupations said otherwise: each in two contexts ("a photo of a pilot at night") and in a style ("a
    drawing of a pilot").

    No training prompt does so: these show whether a change reaches beyond the one phrase it was trained on.
    """
    some = evenly(prompt_rows(prompts, "test"), NAMED_OCCUPATIONS)
    said = [
        text
        for number, name in enumerate(some.occupation)
        for text in (
            *(f"{photo_of(name)} {prompts.contexts[(number + turn) % len(prompts.contexts)]}" for turn in range(2)),
            photo_of(name, STYLES[number % len(STYLES)]),
        )
    ]
    return some.loc[some.index.repeat(3)].assign(prompt=said, prompt_id=range(len(said)))


def adherence(records: pd.DataFrame, attribute: str) -> float:
    """Share of the faces that show the class their prompt names (the column `asked`)."""
    faces = records[records.face]
    return float((faces[attribute] == faces.asked).mean())


def checks(records: pd.DataFrame, attribute: str) -> dict[str, float]:
    """What must not break: occupation right, face found, judge sure, CLIP-T; NaN where it was not measured."""
    measured = "occupation_seen" in records
    return {
        "occupation right": float((records.occupation_seen == records.occupation).mean()) if measured else np.nan,
        "face found": float(records.face.mean()),
        "judge sure": sure_share(records, attribute),
        "CLIP-T": float(records.clip_t.mean()) if "clip_t" in records else np.nan,
    }


def compare_records(
    before: pd.DataFrame,
    after: pd.DataFrame,
    attributes: Sequence[str],
    seed: int,
    target: Mapping[str, Sequence[float]] | None = None,
) -> dict:
    """Compare two tables of the same prompts and noises.

    `bias` of each attribute and of all jointly, before and after (`metrics.summarise`), with the paired `change`;
    `FD` (to the shares `target`, else equal ones) and `diversity` of the same, means over prompts; `share` of the last
    class of each attribute of two classes: mean and std over prompts.
    """
    keys = [*attributes, "+".join(attributes)] if len(attributes) > 1 else attributes
    tables = {"before": before, "after": after}
    bias, share, distance, variety = {}, {}, {}, {}
    for key in keys:
        wanted = target and reduce(np.multiply.outer, [np.asarray(target[name]) for name in key.split("+")]).ravel()
        classes = list(joint_attribute(key.split("+")).classes)
        shares = {when: frequencies(records, key)[classes].dropna().to_numpy(float) for when, records in tables.items()}
        distance[key] = {when: fairness_discrepancy(each, wanted).mean() for when, each in shares.items() if len(each)}
        variety[key] = {when: diversity(each).mean() for when, each in shares.items() if len(each)}
        bias[key] = {when: summarise(records, key, seed) for when, records in tables.items()}
        bias[key]["change"] = paired_difference(before, after, key, seed)
    for name in attributes:
        classes = get_attribute(name).classes
        if len(classes) == 2:
            values = {when: frequencies(records, name)[classes[1]] for when, records in tables.items()}
            share[name] = {when: {"mean": each.mean(), "std": each.std()} for when, each in values.items()}
    return {"bias": bias, "FD": distance, "diversity": variety, "share": share}


def generate_and_judge(
    pipe: StableDiffusionPipeline,
    rows: pd.DataFrame,
    folder: Path,
    detector: MTCNN,
    judge: Classifier,
    profile: Profile,
    *,
    images: int,
    seed: int,
    clip: Clip | None = None,
) -> pd.DataFrame:
    """Generate `images` images per prompt into folder/images and return the judge's records, with CLIP-T if `clip` is
    given.

    They are also written to folder/records.parquet, and read from there if the same images were already judged by the
    same models: experiments of one profile share the original's. Under `torchrun` only the main process judges.
    """
    state = processes()
    generate(
        pipe, rows, images=images, folder=folder / "images", seed=seed, replace=True, **profile.sampling.model_dump()
    )
    records, judged = folder / "records.parquet", folder / "judged.json"
    if state.is_main_process:
        models = [classifier_hash(model) for model in (judge, clip) if model is not None]
        identity = hashed([read_json(folder / "images" / PLAN), models])
        if not (records.is_file() and judged.is_file() and read_json(judged) == {"identity": identity}):
            write_records(judge_images(folder / "images", detector, judge, clip=clip), records)
            write_json(judged, {"identity": identity})
    state.wait_for_everyone()
    return read_records(records)


def evaluate(
    pipe: StableDiffusionPipeline,
    adapter: Adapter | Steering | None,
    vision: VisionModels,
    judge: Classifier,
    prompts: PromptSet,
    profile: Profile,
    experiment: Experiment,
    folder: str | Path,
) -> dict:
    """Evaluate an adapter on the test prompts against the original model, from the same noise.

    Without an adapter, attribute words are drawn into the plain prompts instead. The result holds, per kind of prompts,
    `bias`, `FD`, `diversity` and `share` (`compare_records`); `trained`, the bias on some trained prompts, from
    noise that no training uses; `obeyed`, the share of the images that show the class their prompt names; `sure` and
    `faces`, before and after; `clip_t`, the mean cosine of an image and its prompt, before and after; `clip_i` and
    `dino` (None without a DINO), the mean cosine of an image and the original of the same noise; and `drift`, 1 - that
    cosine of CLIP on prompts without people, which should not change. `phrasings` holds the bias on test occupations
    said as no training prompt says them (`phrasing_rows`), `worst` that of the worst tenth of these (`worst_tenth`); of
    the first kind of prompts, `variety`: how different two images of one are, and `kid`: the distance to what the
    target asks for, images of the original model whose prompts name classes, drawn with the target shares, from other
    noise. Records and images stay in `folder`, and figures/before_after.png shows both models on that kind.
    """
    folder, originals = Path(folder), profile.folder / "experiments" / "original"
    names = list(experiment.shares)
    many, few = profile.evaluate.images, profile.evaluate.explicit_images
    test = {kind: prompt_rows(prompts, "test", kinds=[kind]) for kind in experiment.prompts}
    train = {kind: evenly(_trained(prompts, experiment, kind), TRAINED_PROMPTS) for kind in test}
    contents = pd.DataFrame(
        [(i, photo_of(name), None, "test") for i, name in enumerate(prompts.contents)],
        columns=["prompt_id", "prompt", "occupation", "split"],
    )

    def judged(place: Path, rows: pd.DataFrame, images: int, seed: int = profile.seed, words: bool = False, **how):
        rows = draw_words(rows, experiment.shares, images, seed) if words else rows
        return generate_and_judge(pipe, rows, place, vision.detector, judge, profile, images=images, seed=seed, **how)

    def all_kinds(
        place: Path, words: bool = False
    ) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], pd.DataFrame]:
        """Records per kind of the test prompts, of the train prompts from the noise of another seed; of phrasings."""
        some = {"images": min(DRIFT_IMAGES, many), "seed": profile.seed, "replace": True}
        generate(pipe, contents, folder=place / "contents" / "images", **some, **profile.sampling.model_dump())
        held_out = {
            kind: judged(place / kind, rows, many, words=words, clip=vision.clip) for kind, rows in test.items()
        }
        fresh = {"seed": profile.seed + 1, "words": words}
        trained = {kind: judged(place / f"trained_{kind}", rows, few, **fresh) for kind, rows in train.items()}
        return held_out, trained, judged(place / "phrasings", phrasing_rows(prompts), few, words=words)

    if adapter:
        adapter.remove(pipe)
    before, trained_before, phrasings_before = all_kinds(originals)
    if adapter:
        adapter.apply(pipe)
    try:
        after, trained_after, phrasings_after = all_kinds(folder, words=adapter is None)
        obeyed = {}
        for name in names:
            rows = named_prompt_rows(prompts, name)
            records = judged(folder / f"named_{name}", rows, few)
            records["asked"] = records.prompt_id.map(dict(zip(rows.prompt_id, rows.asked, strict=True)))
            obeyed[name] = adherence(records, name) * float(records.face.mean())
    finally:
        if adapter:
            adapter.remove(pipe)
    kind, *_ = test
    if processes().is_main_process:
        both = before_after(
            before[kind], after[kind], names[0], folders=(originals / kind / "images", folder / kind / "images")
        )
        save_figure(both, folder, "before_after", f"Held-out {kind} before and after, by the judge's class.")
    whole = {"before": pd.concat(before.values()), "after": pd.concat(after.values())}
    phrasings = {"before": phrasings_before, "after": phrasings_after}
    fair = _drawn_with_words(pipe, test[kind], experiment, originals, profile)

    def similarity(name: str, encoder: Clip | Dino) -> float:
        return mean_image_similarity(encoder, originals / name / "images", folder / name / "images")

    return {
        "kinds": {
            kind: compare_records(before[kind], after[kind], names, profile.seed, experiment.shares) for kind in test
        },
        "trained": {
            kind: compare_records(trained_before[kind], trained_after[kind], names, profile.seed)["bias"]
            for kind in test
        },
        "phrasings": compare_records(**phrasings, attributes=names, seed=profile.seed)["bias"],
        "worst": {when: {name: worst_tenth(table, name) for name in names} for when, table in phrasings.items()},
        **_quality(vision.clip, {"before": originals / kind, "after": folder / kind}, fair, profile.seed),
        "obeyed": obeyed,
        "sure": {when: {name: sure_share(table, name) for name in names} for when, table in whole.items()},
        "faces": {when: float(table.face.mean()) for when, table in whole.items()},
        "clip_t": {when: float(table.clip_t.mean()) for when, table in whole.items()},
        "clip_i": float(np.mean([similarity(kind, vision.clip) for kind in test])),
        "dino": float(np.mean([similarity(kind, vision.dino) for kind in test])) if vision.dino else None,
        "drift": 1 - similarity("contents", vision.clip),
    }


def _drawn_with_words(
    pipe: StableDiffusionPipeline, rows: pd.DataFrame, experiment: Experiment, originals: Path, profile: Profile
) -> Path:
    """Images of the original model whose prompts name classes, drawn with the target shares; return their folder."""
    seed, images = profile.seed + 1, profile.evaluate.images  # other noise than that of the images compared with them
    rows = draw_words(rows, experiment.shares, images, seed)
    place = originals / f"words_{hashed(experiment.shares)[:12]}" / "images"
    return generate(pipe, rows, images=images, folder=place, seed=seed, replace=True, **profile.sampling.model_dump())


def _quality(clip: Clip, places: Mapping[str, Path], fair: Path, seed: int) -> dict:
    """`variety` and `kid` (to the images in `fair`) of the images before and after."""
    target, found = image_features(clip, image_set(fair).file), {"variety": {}, "kid": {}}
    for when, place in places.items():
        table = image_set(place / "images")
        features = image_features(clip, table.file)
        found["variety"][when] = variety(features, table.prompt.tolist())
        size = min(len(features), len(target)) // 2
        found["kid"][when] = kid(features, target, size=size, seed=seed)[0] if size > 1 else None
    return found


def _trained(prompts: PromptSet, experiment: Experiment, kind: str) -> pd.DataFrame:
    """The rows of the prompts that an experiment trains on, with their ids in the whole set."""
    rows = prompt_rows(prompts, "train", kinds=[kind])
    if experiment.occupations and kind == OCCUPATIONS:
        rows = rows[rows.occupation.isin(prompts.fewer(experiment.occupations).split("train"))]
    return rows


def held_out_figures(
    pipe: StableDiffusionPipeline,
    patch: Adapter,
    prompts: PromptSet,
    detector: MTCNN,
    judge: Classifier,
    attributes: Sequence[str],
    folder: str | Path,
    profile: Profile,
) -> str:
    """Bias on the validation and test occupations with and without a patch: a Markdown table for each attribute, and of
    several for all jointly.

    No training used these occupations. Images and records stay in `folder`; before and after share their noise.
    """
    rows, images = prompt_rows(prompts, "validation", "test"), profile.evaluate.images
    records = {}
    try:
        for when, strength in (("before", 0.0), ("after", 1.0)):
            patch.apply(pipe, strength)
            records[when] = generate_and_judge(
                pipe, rows, Path(folder) / when, detector, judge, profile, images=images, seed=profile.seed
            )
    finally:
        patch.remove(pipe)
    tables = []
    for name, bias in compare_records(**records, attributes=attributes, seed=profile.seed)["bias"].items():
        lines = [f"| {name}, {len(rows)} occupations, {images} images each | bias | 95 % interval |", "|---|---|---|"]
        for label, key, sign in (("before", "before", ""), ("after", "after", ""), ("difference", "change", "+")):
            value = bias[key]
            lines.append(f"| {label} | {value['mean']:{sign}.3f} | {value['low']:.3f} to {value['high']:.3f} |")
        tables.append("\n".join([*lines, f"| a fair model would score | {bias['after']['floor']:.3f} | |"]))
    return "\n\n".join(tables)
