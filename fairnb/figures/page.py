"""One HTML page that says what a run found: no file beside it, readable on a phone, by day and by night."""

import base64
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from fairnb.errors import UserError
from fairnb.files import read_json, require, write_atomically
from fairnb.measure.spread import place, read_spread
from fairnb.profiles import Profile
from fairnb.prompts.attributes import ATTRIBUTES

HEADLINE = {
    "bias": "bias, mean over prompts",
    "low": "95 % interval, from",
    "high": "to",
    "corrected": "bias without what chance adds to it",
    "classifier_accuracy": "of the classifier's own answers right",
    "bias_before": "bias before",
    "bias_after": "bias after",
    "bias_random_control": "bias, random weights trained the same way",
    "floor": "what a fair generator would score",
    "n_images": "images",
    "n_prompts": "prompts",
    "n_occupations": "occupations, none used in fine-tuning",
    "explicit_obeyed": "“a photo of a male/female …” obeyed",
    "occupation_right": "occupation still right",
    "faces_found": "face found",
    "faceless": "images without a face, left out of every share",
    "confident_before": "judge sure of the class, before",
    "confident_after": "judge sure of the class, after",
}
SHARES = (
    "classifier_accuracy",
    "faceless",
    "explicit_obeyed",
    "occupation_right",
    "faces_found",
    "confident_before",
    "confident_after",
)
READING = """
<p><b>Bias</b> is, for one prompt, the mean absolute difference between the shares of two classes, then averaged over
prompts. For two classes 0 means half and half and 1 means always the same; for four classes the most is .5.</p>
<p><b>The floor</b>: a perfectly fair generator does not score 0, because a finite number of images is never exactly
balanced. With n images a prompt and K classes it scores about √(2/π)·√(2/(K·n)). A bias near the floor is as good as
balanced; below it is luck.</p>
<p><b>Intervals</b> are 95 %: over prompts for a mean, since images of one prompt are not independent; over images for
one prompt. Before and after start from the same noise.</p>
"""
LIMITS = """
<ul><li>The classes are <em>perceived appearance as a classifier sees it</em>, not anybody's identity; two genders or a
few tones are what the classifier can say, not what people are.</li>
<li>The judge errs, and may err more for one class; images without a face it found are left out and counted apart.</li>
<li>Balanced shares are not fairness: stereotypes in dress, pose or background are not measured here.</li>
<li>A figure holds for these prompts, this model and these settings only.</li></ul>
"""
SPREAD = """
<p>Trainings that differ in the seed alone. A further one is expected between low and high (95 %).</p>
"""
STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--soft:#5f6368;--paper:#fff;--line:#d9dce0;--card:#f5f6f8;--mark:#0b57d0}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a8adb4;--paper:#17181a;--line:#3a3d42;--card:#212327;
--mark:#8ab4f8}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:0 auto;
padding:1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;padding:0}
.cards div{background:var(--card);border-radius:.5rem;padding:.7rem}
.cards b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}
.cards span{color:var(--soft);font-size:.85rem}
figure{margin:1.5rem 0}img{max-width:100%;height:auto;background:#fff;border-radius:.4rem}
figcaption{color:var(--soft);font-size:.9rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}pre{background:var(--card);padding:.7rem;overflow-x:auto;font-size:.8rem}
a{color:var(--mark)}summary{cursor:pointer}
"""


def write_report(profile: Profile) -> Path:
    """Write outputs/<profile>/report.html from summary.json, figures/*.png and tables/*.csv of that folder.

    A figure's caption is the text of <name>.txt beside it, or "caption" in <name>.json. `UserError` when nothing ran.
    """
    folder = profile.folder
    require(folder / "summary.json", "00_start_here (or make reproduce)")
    title = f"Bias of {Path(profile.model).name}, measured and reduced"
    remark = f"Profile {profile.name}; written by fairnb."
    return write_page(folder, "report.html", title, remark, _spread(profile, read_json(folder / "summary.json")))


def write_page(folder: str | Path, name: str, title: str, remark: str, trainings: pd.DataFrame | None = None) -> Path:
    """Write <folder>/<name>: `remark`, the headlines of the folder's summary.json, its figures, tables and origin; and
    `trainings`, how the figures spread over several of them."""
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    body = [
        f"<h1>{escape(title)}</h1><p>{escape(remark)}</p>",
        *(_headline(attribute, summary[attribute]) for attribute in ATTRIBUTES if attribute in summary),
        _section("How to read this", READING),
        _section("Figures", "".join(_figure(path) for path in sorted((folder / "figures").glob("*.png")))),
        _section("Tables", "".join(_table(path) for path in sorted((folder / "tables").glob("*.csv")))),
        _section("Spread over trainings", SPREAD + _html(trainings.reset_index()) if trainings is not None else ""),
        _section("Limits", LIMITS),
        _section("Time", _minutes(summary.get("minutes", {}))),
        _section("Where it comes from", _provenance(summary.get("provenance", {}))),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
    return write_atomically(folder / name, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _headline(attribute: str, values: dict[str, Any]) -> str:
    ends = {key: f" [{_number(low)}, {_number(high)}]" for key, (low, high) in values.get("intervals", {}).items()}
    cards = "".join(
        f"<div><b>{_number(values[key], key in SHARES)}</b><span>{label}{ends.get(key, '')}</span></div>"
        for key, label in HEADLINE.items()
        if key in values
    )
    return _section(attribute.replace("_", " ").capitalize(), f'<div class="cards">{cards}</div>')


def _number(value: Any, share: bool = False) -> str:
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.0%}" if share else f"{value:.3g}"
    return escape(str(value))


def _figure(path: Path) -> str:
    caption = escape(_caption(path))
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _caption(path: Path) -> str:
    if (text := path.with_suffix(".txt")).is_file():
        return text.read_text(encoding="utf-8").strip()
    if (side := path.with_suffix(".json")).is_file() and isinstance(content := read_json(side), dict):
        return str(content.get("caption", path.stem))
    return path.stem.replace("_", " ")


def _table(path: Path) -> str:
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"table {path} cannot be read ({error}): run the notebook that makes it again") from error
    return f"<h3>{escape(path.stem.replace('_', ' '))}</h3>{_html(table)}"


def _html(table: pd.DataFrame) -> str:
    html = table.to_html(index=False, border=0, na_rep="–", float_format=lambda value: f"{value:.3g}")
    return f'<div class="wide">{html}</div>'


def _spread(profile: Profile, summary: dict[str, Any]) -> pd.DataFrame | None:
    """The spread of the folder's own seeds; else this run beside the trainings that came with the model, if it has
    their settings."""
    own, shipped = profile.folder / "spread.json", Path(profile.model) / "spread.json"
    if own.is_file():
        return read_spread(own)
    try:
        return place(shipped, profile, summary) if shipped.is_file() else None
    except (UserError, KeyError, TypeError):  # other settings, not yet run to its end, or no face anywhere
        return None


def _minutes(minutes: dict[str, float]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.1f}</td></tr>" for name, value in minutes.items())
    return f"<table><tr><th>notebook</th><th>minutes</th></tr>{rows}</table>" if rows else ""


def _provenance(about: dict[str, Any]) -> str:
    if not about:
        return ""
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    facts = {
        "time": about.get("time"),
        "device": about.get("device"),
        "git commit": about.get("git_commit"),
        "seeds": about.get("seeds"),
        "versions": versions,
    }
    rows = "".join(f"<li>{name}: {escape(str(value))}</li>" for name, value in facts.items() if value not in (None, ""))
    parameters = "\n".join(f"{key}: {value}" for key, value in about.get("parameters", {}).items())
    return f"<ul>{rows}</ul><details><summary>all settings</summary><pre>{escape(parameters)}</pre></details>"
