"""Audit a model: generate images of prompts, judge the people in them, and report their shares on one page."""

from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN

from fairnb.diffusion.pipeline import processes
from fairnb.errors import UserError
from fairnb.figures import charts, pictures, style
from fairnb.figures.page import write_page
from fairnb.files import read_json, write_atomically, write_json
from fairnb.measure import metrics
from fairnb.measure.ffd_results import write_test_results
from fairnb.measure.generate import PLAN, generate
from fairnb.measure.judge import judge_images
from fairnb.measure.provenance import provenance
from fairnb.measure.record_files import save_records
from fairnb.measure.records import write_records
from fairnb.profiles import Profile
from fairnb.prompts.attributes import ATTRIBUTES
from fairnb.vision.classifiers import Classifier
from fairnb.vision.perception import classifier_hash


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
    patch: dict | None = None,
) -> Path:
    """Generate `images` images of each prompt (`prompts.files.read_prompts`) and report what the judge sees.

    Writes images/, records.parquet and .csv, FFD's test_results.pkl, tables/, figures/ and summary.json into `folder`,
    and a page of it all, audit.html, whose path is returned. `patch` says what is applied to the pipeline (name,
    content, strength). A killed call resumes; an earlier judge's tables and figures are replaced. Under `torchrun` the
    images are divided, and the main process does the rest. `UserError` for an attribute that the judge does not know,
    and for a folder that holds another model's audit.
    """
    folder = Path(folder)
    for attribute in attributes:
        if attribute not in judge.classes:
            raise UserError(f"the judge does not know '{attribute}': it knows {', '.join(judge.classes)}")
    page, state = folder / "audit.html", processes()
    generate(pipe, prompts, images=images, folder=folder / "images", seed=profile.seed, **profile.sampling.model_dump())
    if state.is_main_process:
        _report(folder, len(prompts), images, detector, judge, attributes, profile, patch)
    state.wait_for_everyone()
    return page


def _report(
    folder: Path,
    prompts: int,
    images: int,
    detector: MTCNN,
    judge: Classifier,
    attributes: list[str],
    profile: Profile,
    patch: dict | None,
) -> None:
    """Judge the images of an audit and write everything that follows from them."""
    records = judge_images(folder / "images", detector, judge)
    title = f"Who is in the pictures of {Path(profile.model).name}?"
    remark = f"{prompts} prompts, {images} images each, seed {profile.seed}; written by fairnb."
    if patch:
        remark = f"With {patch['name']} at strength {patch['strength']:g}. {remark}"
    plan = read_json(folder / "images" / PLAN)
    how = {key: value for key, value in plan.items() if key not in ("model", "prompts")}
    about = {"provenance": provenance(profile) | ({"patch": patch} if patch else {})}
    about["identity"] = {"judge": classifier_hash(judge), **how}
    write_audit(records, folder, folder / "images", attributes, judge.accuracy, about, title, remark, profile.seed)


def write_audit(
    records: pd.DataFrame,
    folder: Path,
    source: Path,
    attributes: list[str],
    accuracy: dict[str, float],
    about: dict,
    title: str,
    remark: str,
    seed: int = 0,
) -> Path:
    """Write all that follows from the records of images in `source`: see `audit`; return the page, audit.html.

    `accuracy` is that of the judge, `about` begins the summary. Pictures are shown if all files of the records are
    there. Tables and figures of attributes that an earlier judge knew are removed.
    """
    for name in ATTRIBUTES:
        for path in (*folder.glob(f"figures/{name}_*"), *folder.glob(f"tables/{name}.csv")):
            path.unlink()
    write_records(records, folder / "records.parquet")
    save_records(records, folder / "records.csv")
    write_test_results(records, folder / "test_results.pkl")
    summary = dict(about)
    for attribute in attributes:
        summary[attribute] = _one(records, attribute, folder, source, accuracy.get(attribute), seed)
    write_json(folder / "summary.json", summary)
    return write_page(folder, "audit.html", title, remark)


def audit_identity(folder: Path) -> dict:
    """What two audits must have in common to be compared: the judge, and how images are generated; not model and
    prompts."""
    return read_json(folder / "summary.json").get("identity", {})


def _one(records: pd.DataFrame, attribute: str, folder: Path, source: Path, accuracy: float | None, seed: int) -> dict:
    """Write tables and figures of one attribute; return its headline figures."""
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
        }
        if all((source / path).is_file() for path in records.path):
            drawn["faces"] = (
                pictures.class_grid(records, attribute, folder=source),
                f"Pictures of all prompts sorted by perceived {name}; the bar is the judge's confidence.",
            )
        for kind, (figure, caption) in drawn.items():
            style.save_figure(figure, folder, f"{attribute}_{kind}", caption)
    whole = metrics.summarise(records, attribute, seed=seed)
    shown = ("low", "high", "corrected", "floor", "n_images", "n_prompts")
    known = {} if accuracy is None else {"classifier_accuracy": accuracy}
    headline = {"bias": whole["mean"], **{key: whole[key] for key in shown}}
    return headline | {"faceless": whole["faceless_share"]} | known
