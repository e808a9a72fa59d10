"""Measure the quality of mini-sd, and write its card (card.json and README.md)."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fairnb.diffusion.pipeline import encode_prompts, load_pipeline
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.files import write_atomically, write_json
from fairnb.measure.generate import generate
from fairnb.measure.images import load_image
from fairnb.measure.judge import judge_images
from fairnb.miniworld.dataset import Portraits, draw_dataset, draw_photo
from fairnb.miniworld.world import ATTRIBUTES, OCCUPATIONS, SUBJECTS, shares
from fairnb.prompts.templates import photo_of
from fairnb.vision.classifiers import Classifier, load_classifier
from fairnb.vision.encoders import load_clip
from fairnb.vision.faces import crop_faces, load_detector

FRESH_SEED = 7  # of portraits that no classifier was trained on
EXPLICIT = tuple(OCCUPATIONS)[::13]  # sixteen, of both genders, whose prompts name each class


def measure(model: Path, work: Path, steps: int, guidance_scale: float, batch: int, images: int = 32) -> dict:
    """Measure the model folder `model` with `images` per occupation; return the figures of the card.

    The accuracy of each classifier is stored beside it as accuracy.json.
    """
    fresh = draw_dataset(work / "fresh", 2000, FRESH_SEED)
    judge = load_classifier(model / "judge")
    accuracies = {name: accuracy(load_classifier(model / name), fresh) for name in ("guide", "judge", "occupation")}
    for name, figures in accuracies.items():
        write_json(model / name / "accuracy.json", figures)
    pipe = load_pipeline(model)
    settings = {"seed": 0, "steps": steps, "guidance_scale": guidance_scale, "batch": batch}

    def see(prompts: dict[str, str], count: int, name: str) -> pd.DataFrame:
        rows = [
            {"prompt_id": i, "prompt": prompt, "occupation": occupation, "split": "quality"}
            for i, (prompt, occupation) in enumerate(prompts.items())
        ]
        folder = generate(pipe, rows, images=count, folder=work / name, replace=True, **settings)
        return judge_images(folder, load_detector(), judge, occupation_judge=load_classifier(model / "occupation"))

    bare = see({photo_of(name): name for name in OCCUPATIONS}, images, "bare")
    named = {
        photo_of(f"{word} {occupation}"): (occupation, attribute.name, class_name)
        for attribute in ATTRIBUTES
        for class_name, word in zip(attribute.classes, attribute.words, strict=True)
        for occupation in EXPLICIT
    }
    explicit = see({prompt: about[0] for prompt, about in named.items()}, max(1, images // 4), "explicit")
    subjects = see({photo_of(name): name for name in SUBJECTS}, max(1, images // 8), "subjects")
    start = time.perf_counter()
    prompt = photo_of("pilot")
    with torch.no_grad():
        pictures = decode(
            pipe, sample(pipe, prompt, noise(pipe, prompt, range(64), 1), steps=steps, guidance_scale=guidance_scale)
        )
    seconds = time.perf_counter() - start
    return {
        "settings": {**settings, "images_per_occupation": images},
        "drawn_faces_found": drawn_faces(fresh),
        "classifier_accuracy_on_fresh_portraits": {k: v["accuracy"] for k, v in accuracies.items()},
        "explicit_obeyed": obeyed(explicit, named),
        "occupation_right": float((bare["occupation_seen"] == bare["occupation"]).mean()),
        "occupation_right_by_occupation": (bare["occupation_seen"] == bare["occupation"])
        .groupby(bare["occupation"])
        .mean()
        .to_dict(),
        "subject_right": float((subjects["occupation_seen"] == subjects["occupation"]).mean()),
        "faces_in_subjects": float(subjects["face"].mean()),
        "planted_reproduced": reproduced(bare),
        "faces_found": float(bare["face"].mean()),
        "faces_found_by_asked_tone": {
            name: float(explicit["face"][[named[p][2] == name for p in explicit["prompt"]]].mean())
            for name in ATTRIBUTES[1].classes
        },
        "text_states_follow_planted_gender": text_bias(pipe),
        "different_people": variety(model, work, bare),
        "seconds_for_64_images": seconds,
        "pictures_finite": bool(torch.isfinite(pictures).all()),
        "megabytes": sum(f.stat().st_size for f in model.rglob("*") if f.is_file()) / 1e6,
    }


@torch.no_grad()
def accuracy(classifier: Classifier, data: Portraits) -> dict:
    """Accuracy and confusion (rows: truth, columns: predicted) per attribute on drawn portraits with detected faces."""
    table = data.table
    figures: dict = {"accuracy": {}, "confusion": {}, "n": {}}
    for attribute, classes in classifier.classes.items():
        whole = attribute == "occupation"
        rows = np.arange(len(table)) if whole else np.flatnonzero(table["face"] & table[attribute].notna())
        truth = table["noun" if whole else attribute].to_numpy()[rows]
        seen = []
        for part in np.array_split(rows, max(1, len(rows) // 100)):
            images = data.images(part)
            images = images if whole else crop_faces(images, data.boxes(part), classifier.size)
            seen.extend(classes[i] for i in classifier(images)[attribute].argmax(1).tolist())
        seen = np.array(seen)
        figures["accuracy"][attribute] = float((seen == truth).mean())
        figures["n"][attribute] = len(rows)
        figures["confusion"][attribute] = {
            name: {other: int(((truth == name) & (seen == other)).sum()) for other in classes} for name in classes
        }
    return figures


def drawn_faces(data: Portraits) -> dict:
    """Share of drawn portraits in which MTCNN finds a face: by class, and the lowest of occupations and contexts."""
    people = data.table[data.table["kind"] != "subject"]
    rates = {a.name: people.groupby(a.name)["face"].mean().round(4).to_dict() for a in ATTRIBUTES}
    return {
        **rates,
        "lowest_occupation": lowest(people.groupby("noun")["face"].mean()),
        "lowest_context": lowest(people.groupby(people["context"].fillna("none"))["face"].mean()),
        "subjects_without_people": float(data.table[data.table["kind"] == "subject"]["face"].mean()),
        "n": len(people),
    }


def lowest(rates: pd.Series) -> dict:
    """The lowest rate, by its name."""
    return {str(rates.idxmin()): float(rates.min())}


def obeyed(records: pd.DataFrame, named: dict[str, tuple[str, str, str]]) -> dict:
    """Share of faces that show the class the prompt names, per attribute (mean) and class."""
    figures: dict = {}
    for attribute in ATTRIBUTES:
        for class_name in attribute.classes:
            prompts = [p for p, about in named.items() if about[1:] == (attribute.name, class_name)]
            seen = records[records["prompt"].isin(prompts) & records["face"]]
            figures[f"{attribute.name}:{class_name}"] = float((seen[attribute.name] == class_name).mean())
        own = [v for k, v in figures.items() if k.startswith(f"{attribute.name}:")]
        figures[attribute.name] = float(np.mean(own))
    return figures


def reproduced(records: pd.DataFrame) -> dict:
    """Mean distance between planted and generated shares per attribute, and the gender bias of both."""
    faces = records[records["face"]]
    figures = {}
    for attribute in ATTRIBUTES:
        distances = []
        for occupation, rows in faces.groupby("occupation"):
            planted = shares(occupation)[attribute.name]
            distances += [abs((rows[attribute.name] == name).mean() - planted[name]) for name in attribute.classes]
        figures[attribute.name] = float(np.mean(distances))
    women = faces.groupby("occupation")["gender"].apply(lambda seen: (seen == "female").mean())
    planted = np.array([2 * shares(name)["gender"]["female"] - 1 for name in women.index])
    figures["gender_bias_generated"] = float((2 * women - 1).abs().mean())
    figures["gender_bias_planted"] = float(np.abs(planted).mean())
    # away from one half, on the side where the planted share is: what guidance adds to the bias
    figures["amplification"] = float(((2 * women.to_numpy() - 1) * np.sign(planted) - np.abs(planted)).mean())
    return figures


@torch.no_grad()
def text_bias(pipe) -> float:
    """How much of the planted bias is in the text states, as a correlation over all occupations.

    It correlates the planted share of women with the position of the plain prompt's text state (last token) on the
    direction from "male" to "female".
    """

    def states(word: str) -> torch.Tensor:
        return encode_prompts(pipe, [photo_of(f"{word} {name}".strip()) for name in OCCUPATIONS])[:, -1]

    direction = (states("female") - states("male")).mean(0)
    women = [shares(name)["gender"]["female"] for name in OCCUPATIONS]
    return float(np.corrcoef((states("") @ direction).numpy(), women)[0, 1])


@torch.no_grad()
def variety(model: Path, work: Path, records: pd.DataFrame) -> dict:
    """Mean CLIP distance (1 - cosine) between 32 portraits of one occupation, generated and drawn, and their ratio."""
    clip = load_clip(model / "clip")
    made, real = [], []
    for occupation, rows in records.groupby("occupation"):
        made.append(
            spread(clip.image_features(torch.stack([load_image(work / "bare" / p) for p in rows["path"].iloc[:32]])))
        )
        rng = np.random.default_rng([FRESH_SEED, len(real)])
        portraits = np.stack([np.asarray(draw_photo(occupation, rng)[0], np.float32) for _ in range(32)])
        real.append(spread(clip.image_features(torch.from_numpy(portraits).permute(0, 3, 1, 2) / 127.5 - 1)))
    return {
        "generated": float(np.mean(made)),
        "drawn": float(np.mean(real)),
        "variety": float(np.mean(made) / np.mean(real)),
    }


def spread(features: torch.Tensor) -> float:
    """Mean distance between two different rows of normalised features [N, D]."""
    n = len(features)
    return float(1 - ((features @ features.T).sum() - n) / (n * (n - 1)))


def write_card(model: Path, figures: dict) -> None:
    """Write card.json and README.md."""
    write_json(model / "card.json", figures)
    obeyed_, planted = figures["explicit_obeyed"], figures["planted_reproduced"]
    rows = {
        "explicit gender obeyed": obeyed_["gender"],
        "explicit skin tone obeyed": obeyed_["skin_tone"],
        "explicit age obeyed": obeyed_["age"],
        "right occupation": figures["occupation_right"],
        "right occupation, the worst of all": min(figures["occupation_right_by_occupation"].values()),
        "face found in generated portraits": figures["faces_found"],
        "least found tone asked for": min(figures["faces_found_by_asked_tone"].values()),
        "face found in pictures without people": figures["faces_in_subjects"],
        "mean distance to the planted gender share": planted["gender"],
        "mean gender bias planted": planted["gender_bias_planted"],
        "mean gender bias generated": planted["gender_bias_generated"],
        "amplification: generated further from one half than planted, by": planted["amplification"],
        "text states follow the planted gender (correlation)": figures["text_states_follow_planted_gender"],
        "CLIP distance between two people of one occupation, generated": figures["different_people"]["generated"],
        "the same, drawn": figures["different_people"]["drawn"],
        "variety: the first divided by the second": figures["different_people"]["variety"],
        "seconds for 64 images": figures["seconds_for_64_images"],
        "megabytes": figures["megabytes"],
    }
    for name in ("guide", "judge", "occupation"):
        for attribute, value in figures["classifier_accuracy_on_fresh_portraits"][name].items():
            rows[f"accuracy of {name} on drawn portraits: {attribute}"] = value
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in rows.items())
    text = f"""# mini-sd

A real but tiny Stable Diffusion, trained from nothing on portraits that fairnb draws, with a bias that fairnb planted
(`world.json`). It holds no picture of a real person. `clip/` is the CLIP whose text encoder it uses, frozen as in
Stable Diffusion; `guide/`, `judge/` and `occupation/` are the classifiers. Made by `make mini-sd`, measured by
`make quality`; every figure below is in `card.json` with its settings.

| measured | |
|---|---|
{table}

Its people are drawings. What a classifier calls their gender, skin tone or age is how a drawing looks to it.
"""
    write_atomically(model / "README.md", lambda path: path.write_text(text))
