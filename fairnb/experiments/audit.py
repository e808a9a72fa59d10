"""Audit a model: draw prompts, look at the people in the pictures, report their shares in figures and one page."""

from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN

from fairnb.adapters.protocol import Adapter
from fairnb.errors import UserError
from fairnb.figures import charts, pictures, style
from fairnb.figures.page import write_page
from fairnb.files import write_atomically, write_json
from fairnb.measure import metrics
from fairnb.measure.ffd_results import write_test_results
from fairnb.measure.generate import generate
from fairnb.measure.judge import judge_images
from fairnb.measure.provenance import provenance
from fairnb.measure.records import write_records
from fairnb.profiles import Profile
from fairnb.prompts.sets import PromptSet, prompt_rows
from fairnb.vision.classifiers import Classifier


def audit(
    pipe: StableDiffusionPipeline,
    prompts: pd.DataFrame,
    detector: MTCNN,
    judge: Classifier,
    *,
    attributes: list[str],
    images: int,
    folder: str | Path,
    profile: Profile,
) -> Path:
    """Draw `images` pictures of each prompt (`prompts.read_prompts`) and write into `folder` what the judge sees.

    images/, records.parquet and .csv, FFD's test_results.pkl, tables/, figures/, summary.json and, of all of it, the
    page audit.html, whose path is returned. Called again after a crash it goes on. `UserError` for an attribute that
    the judge does not know, and for a folder that holds another model's audit.
    """
    folder = Path(folder)
    for attribute in attributes:
        if attribute not in judge.classes:
            raise UserError(f"the judge does not know '{attribute}': it knows {', '.join(judge.classes)}")
    generate(pipe, prompts, images=images, folder=folder / "images", seed=profile.seed, **profile.sampling.model_dump())
    records = judge_images(folder / "images", detector, judge)
    write_records(records, folder / "records.parquet")
    write_atomically(folder / "records.csv", lambda path: records.to_csv(path, index=False))
    write_test_results(records, folder / "test_results.pkl")
    summary = {"provenance": provenance(profile)}
    for attribute in attributes:
        summary[attribute] = _one(records, attribute, folder, judge.accuracy.get(attribute), profile.seed)
    write_json(folder / "summary.json", summary)
    remark = f"{len(prompts)} prompts, {images} images each, seed {profile.seed}; written by fairnb."
    return write_page(folder, "audit.html", f"Who is in the pictures of {Path(profile.model).name}?", remark)


def before_and_after(
    pipe: StableDiffusionPipeline,
    patch: Adapter,
    words: PromptSet,
    detector: MTCNN,
    judge: Classifier,
    attribute: str,
    folder: str | Path,
    profile: Profile,
) -> str:
    """What the judge sees of the validation and test occupations with and without a patch, as a Markdown table.

    None of them was trained on. Pictures and records stay in `folder`; the same noise stands before and after.
    """
    rows, images = prompt_rows(words, "validation", "test"), profile.evaluate.images
    records = {}
    how = {"images": images, "seed": profile.seed, "replace": True, **profile.sampling.model_dump()}
    try:
        for name, strength in (("before", 0.0), ("after", 1.0)):
            patch.apply(pipe, strength)
            place = generate(pipe, rows, folder=Path(folder) / "images" / name, **how)
            records[name] = judge_images(place, detector, judge)
            write_records(records[name], Path(folder) / f"{name}.parquet")
    finally:
        patch.remove(pipe)
    change = metrics.paired_difference(records["before"], records["after"], attribute, seed=profile.seed)
    lines = [f"| {attribute}, {len(rows)} occupations, {images} images each | bias | 95 % interval |", "|---|---|---|"]
    for name, table in records.items():
        whole = metrics.summarise(table, attribute, seed=profile.seed)
        lines.append(f"| {name} | {whole['mean']:.3f} | {whole['low']:.3f} to {whole['high']:.3f} |")
    lines.append(f"| difference | {change['mean']:+.3f} | {change['low']:.3f} to {change['high']:.3f} |")
    return "\n".join([*lines, f"| a fair model would score | {whole['floor']:.3f} | |"])


def _one(records: pd.DataFrame, attribute: str, folder: Path, accuracy: float | None, seed: int) -> dict:
    """Tables and figures of one attribute; returns its headline figures."""
    table = metrics.bias_by_prompt(records, attribute)
    write_atomically(folder / "tables" / f"{attribute}.csv", lambda path: table.to_csv(path, index=False))
    name = attribute.replace("_", " ")
    if records.face.any():
        drawn = {
            "shares": (charts.class_shares(records, attribute), f"Share of faces in each class of {name}, per prompt."),
            "bias": (
                charts.bias_dumbbell({"bias": table}),
                f"Bias on {name} per prompt, with its 95 % interval; the band is what a fair model would score.",
            ),
            "faces": (
                pictures.class_grid(records, attribute, folder=folder / "images"),
                f"Pictures of all prompts sorted by perceived {name}; the bar is the judge's confidence.",
            ),
        }
        for kind, (figure, caption) in drawn.items():
            style.save_figure(figure, folder, f"{attribute}_{kind}", caption)
    whole = metrics.summarise(records, attribute, seed=seed)
    shown = ("low", "high", "corrected", "floor", "n_images", "n_prompts")
    known = {} if accuracy is None else {"classifier_accuracy": accuracy}
    headline = {"bias": whole["mean"], **{key: whole[key] for key in shown}}
    return headline | {"faceless": whole["faceless_share"]} | known
