"""One HTML page with the results of a run: self-contained, readable on a phone, in light and dark mode."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from fairnb.errors import UserError
from fairnb.files import read_json, require, write_atomically
from fairnb.measure.spread import place, read_spread
from fairnb.profiles import Profile
from fairnb.prompts.attributes import ATTRIBUTES

HEADLINE = {
    "bias": "bias, mean over prompts",
    "low": "95 % interval, from",
    "high": "to",
    "corrected": "bias corrected for chance",
    "classifier_accuracy": "accuracy of the judge",
    "bias_before": "bias before",
    "bias_after": "bias after",
    "bias_random_control": "bias, random weights trained the same way",
    "floor": "score of a perfectly fair generator",
    "n_images": "images",
    "n_prompts": "prompts",
    "n_occupations": "held-out occupations",
    "explicit_obeyed": "named class obeyed (“a photo of a male/female …”)",
    "occupation_right": "occupation still right",
    "faces_found": "face found",
    "faceless": "images without a face, excluded from every share",
    "confident_before": "judge sure of the class, before",
    "confident_after": "judge sure of the class, after",
}
SHARES = (
    *("classifier_accuracy", "faceless", "explicit_obeyed", "occupation_right", "faces_found"),
    *("confident_before", "confident_after"),
)


def write_report(profile: Profile) -> Path:
    """Write outputs/<profile>/report.html from that folder's summary.json, figures/*.png and tables/*.csv.

    `UserError` if no notebook was run.
    """
    folder = profile.folder
    summary = read_json(require(folder / "summary.json", "00_start_here (or make reproduce)"))
    title = f"Bias of {Path(profile.model).name}, measured and reduced"
    remark = f"Profile {profile.name}; written by fairnb."
    return write_page(folder, "report.html", title, remark, _spread(profile, summary))


def write_page(folder: str | Path, name: str, title: str, remark: str, spread: pd.DataFrame | None = None) -> Path:
    """Write <folder>/<name>: the headlines of the folder's summary.json, its figures, tables and provenance.

    A figure's caption is the text of <figure>.txt beside it, or "caption" in <figure>.json. `spread` shows how the
    figures vary over several trainings.
    """
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    about = summary.get("provenance", {})
    text = Environment(loader=PackageLoader("fairnb.figures", "."), autoescape=True).get_template("page.html.j2")
    page = text.render(
        title=title,
        remark=remark,
        headlines={
            name.replace("_", " ").capitalize(): _cards(summary[name]) for name in ATTRIBUTES if name in summary
        },
        figures=[
            (_caption(path), base64.b64encode(path.read_bytes()).decode())
            for path in sorted((folder / "figures").glob("*.png"))
        ],
        tables=[(path.stem.replace("_", " "), _table(path)) for path in sorted((folder / "tables").glob("*.csv"))],
        spread=None if spread is None else _html(spread.reset_index()),
        minutes=summary.get("minutes", {}),
        facts=_facts(about),
        parameters=about.get("parameters", {}),
    )
    return write_atomically(folder / name, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _cards(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Value and label of each headline figure."""
    ends = {key: f" [{_number(low)}, {_number(high)}]" for key, (low, high) in values.get("intervals", {}).items()}
    return [
        (_number(values[key], key in SHARES), label + ends.get(key, ""))
        for key, label in HEADLINE.items()
        if key in values
    ]


def _number(value: Any, share: bool = False) -> str:
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.0%}" if share else f"{value:.3g}"
    return str(value)


def _caption(path: Path) -> str:
    if (text := path.with_suffix(".txt")).is_file():
        return text.read_text(encoding="utf-8").strip()
    if (side := path.with_suffix(".json")).is_file() and isinstance(content := read_json(side), dict):
        return str(content.get("caption", path.stem))
    return path.stem.replace("_", " ")


def _table(path: Path) -> Markup:
    try:
        return _html(pd.read_csv(path, keep_default_na=False, na_values=[""]))  # a prompt may be "NA"
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"table {path} cannot be read ({error}): run the notebook that makes it again") from error


def _html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0, na_rep="–", float_format=lambda value: f"{value:.3g}"))


def _spread(profile: Profile, summary: dict[str, Any]) -> pd.DataFrame | None:
    """The spread over the folder's own seeds; else this run beside the spread that came with the model, if it has the
    same settings."""
    own, shipped = profile.folder / "spread.json", Path(profile.model) / "spread.json"
    if own.is_file():
        return read_spread(own)
    try:
        return place(shipped, profile, summary) if shipped.is_file() else None
    except (UserError, KeyError, TypeError):  # other settings, an unfinished run, or no face anywhere
        return None


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    """Provenance as a short list."""
    facts = {name: about.get(key) for name, key in (("time", "time"), ("device", "device"))}
    facts |= {"git commit": about.get("git_commit"), "seeds": about.get("seeds")}
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    return {name: value for name, value in facts.items() if value not in (None, "")}
