"""RESULTS.md of a model: every table written from the results that come with it."""

from pathlib import Path

import pandas as pd

from fairnb.experiments.leaderboard import KNOWN, leaderboard_markdown
from fairnb.experiments.results import markdown, results_table
from fairnb.files import read_json, root, write_atomically
from fairnb.measure.spread import read_spread

# Bias after / before that FFD reports for Stable Diffusion 1.5 (Shen et al., ICLR 2024, Tables 1, 5 and 6), by
# experiment, kind of prompts and attribute. Its places are sports.
FFD = {
    ("exp-1", "occupations", "gender"): 0.34,
    ("exp-3", "occupations", "gender+skin_tone"): 0.29,
    ("exp-5", "occupations", "gender"): 0.34,
    ("exp-5", "styled occupations", "gender"): 0.76,
    ("exp-5", "descriptors", "gender"): 0.49,
    ("exp-5", "places", "gender"): 0.66,
    ("exp-6", "occupations", "skin_tone"): 0.29,
}
MAIN = {
    "bias_before": "bias of the original",
    "bias_after": "bias with bias neurons",
    "bias_random_control": "bias with as many random weights of the same tensors",
    "bias_neurons_minus_random": "difference of the two",
    "floor": "score of a perfectly fair model",
    "explicit_obeyed": "named class obeyed",
    "occupation_right": "occupation right",
    "faces_found": "face found",
    "confident_before": "judge sure, before",
    "confident_after": "judge sure, after",
}
PAGE = """# Results on {model}

Written by `fairnb results {place} --out {place}/RESULTS.md` from the files beside this page. All values
are those of the judge, which took no part in any training, on held-out occupations that no training used; before and
after start from the same noise. Gender, skin tone and age are perceived appearance as a classifier sees it; the judge's
accuracy on drawn portraits is {accuracy}.

## Bias neurons for {attribute}

{trainings} trainings that differ only in the seed ({images} images of {occupations} occupations each;
`make seeds`). `mean low` and `mean high` are the 95 % interval of the mean; a further training is expected between
`low` and `high` (95 %).

{main}

The shipped patch is that of seed {seed}: its bias after is {shipped}.

## Leaderboard

Every method on the same model, prompts, noise and judge (`fairnb leaderboard`), by target and then by bias. In
brackets: the 95 % interval of the mean over seeds, and the score of a perfectly fair model. Where a row has fewer than
{known} seeds the interval is that of the pooled spread of its kind (weights trained or not), if any row of it has two.
Bold is the best of a column and all that this spread does not tell from it; nothing is bold where it tells none.
`trained` is the bias on trained occupations, `worst` that of the worst tenth of the held-out ones when they are said
otherwise ("at night", "a drawing of"). `obeyed` is the share of images that show the class their prompt names, `KID`
the distance to images of the original model whose prompts name classes in the target shares. Minutes and MB of memory
are those of the training on one CPU thread, in part beside other jobs.

{leaderboard}

A command repeats a row with `--profile mini --set evaluate.images=32`.

## Every figure

Experiments of the profile mini (`make experiments`), means over the seeds, for every kind of prompts. `before` and
`after` are bias, `sd` its standard deviation over seeds, `ratio` is after / before, `FFD` the ratio that FFD reports
for Stable Diffusion 1.5. `sure` is the share of faces that the judge is sure of, `faces` the share of images with a
face, `clip_i` the similarity to the original images, `drift` the change of images without people, `variety` how
different two images of a prompt are. `parameters` are the numbers that a method trains or measures.

{methods}

## What the experiments are

{experiments}

## What differs from the papers

Everything else is as published in the profile `ffd` and in the experiments whose names end in `-published`.

{differences}
"""


def write_results_page(place: Path, results: list[dict], path: str | Path) -> Path:
    """Write `results_page` to `path`."""
    text = results_page(place, results)
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def results_page(place: Path, results: list[dict]) -> str:
    """The page as Markdown, from the results (`read_results`), spread.json and judge/accuracy.json of the model folder
    `place`."""
    spread, runs = read_spread(place / "spread.json"), read_json(place / "spread.json")
    attribute = runs["settings"]["attribute"]
    own = spread[spread.index.str.startswith(f"{attribute}.")].rename(lambda name: name.partition(".")[2])
    main = own.loc[[name for name in MAIN if name in own.index]].drop(columns=["n", "std"])
    accuracy = read_json(place / "judge" / "accuracy.json")["accuracy"]
    whole = place.resolve()
    return PAGE.format(
        model=whole.name,
        place=whole.relative_to(root()) if whole.is_relative_to(root()) else place,
        accuracy=", ".join(f"{value:.3f} ({name.replace('_', ' ')})" for name, value in accuracy.items()),
        attribute=attribute,
        trainings=len(runs["seeds"]),
        images=int(own.loc["n_images", "mean"]),
        occupations=int(own.loc["n_occupations", "mean"]),
        seed=runs["seeds"][0],
        shipped=f"{runs['figures'][f'{attribute}.bias_after'][0]:.2f}",
        main=markdown(main.rename(index=MAIN).rename_axis("").reset_index()),
        known=KNOWN,
        leaderboard=leaderboard_markdown(results),
        methods=markdown(_methods(results)),
        experiments=markdown(_experiments(results)),
        differences=Path(__file__).with_name("differences.md").read_text(encoding="utf-8").rstrip(),
    )


def _methods(results: list[dict]) -> pd.DataFrame:
    table = results_table(results)
    columns = ["seeds", "before", "after", "sd", "ratio", "trained after", "obeyed", "sure", "faces", "clip_i", "drift"]
    later = {f"{name} after": name for name in ("worst", "variety", "kid")}  # which older results do not hold
    shown = table.reindex(columns=[*columns, *later, "parameters", "minutes"]).rename(columns=later)
    shown.insert(5, "FFD", pd.Series(FFD).reindex(shown.index))
    return shown.reset_index()


def _experiments(results: list[dict]) -> pd.DataFrame:
    """Adapter, target and training of each experiment, from the settings stored with its result."""
    rows = {}
    for result in results:
        about = result["provenance"]["parameters"]["experiments"][result["experiment"]]
        parts = f" of {' and '.join(about['parts'])}" if about["adapter"] in ("lora", "full") else ""
        parts += f", rank {about['rank']}" if about["adapter"] == "lora" else ""
        objective = "alignment" if about["contrast"] is None else f"triplets, {about['contrast']['loss']}"
        if about["adapter"] in ("h_guidance", "words", "directions", "class_tokens", "noise"):
            objective = about["h_guidance"]["mode"] if about["adapter"] == "h_guidance" else "none"
        changes = ", ".join(f"{key} {value}" for key, value in about["finetune"].items())
        rows[result["experiment"]] = {
            "experiment": result["experiment"],
            "adapter": about["adapter"].replace("_", "-") + parts,
            "objective": objective,
            "target": "; ".join(f"{name} {' / '.join(map(str, each))}" for name, each in about["shares"].items()),
            "differs from the profile in": changes,
        }
    return pd.DataFrame(rows.values())
