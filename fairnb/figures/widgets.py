"""Sliders and menus for notebooks; each has a still figure for runs without a browser."""

import io
import os
from pathlib import Path

import ipywidgets
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from IPython import get_ipython
from matplotlib.figure import Figure

from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.sampling import draw
from fairnb.figures.pictures import class_grid, picture_rows
from fairnb.vision.classifiers import Classifier
from fairnb.vision.faces import load_detector
from fairnb.vision.perception import perceived_classes

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def interactive() -> bool:
    """Whether this is a notebook kernel with a user; runs without a browser set FAIRNB_HEADLESS to 1."""
    return hasattr(get_ipython(), "kernel") and os.environ.get("FAIRNB_HEADLESS") != "1"


def strength_strip(
    pipe: StableDiffusionPipeline,
    adapter: Adapter,
    prompt: str,
    *,
    images: int = 8,
    steps: int,
    guidance_scale: float,
    batch: int,
    seed: int,
    judge: Classifier | None = None,
    attribute: str = "gender",
    title: str = "",
) -> Figure:
    """A row of images for each strength of a patch, from 0 (original) to 1 (debiased), one noise per column.

    With a judge, faces are framed by class. Afterwards the pipeline has its own weights again.
    """
    settings = {"steps": steps, "guidance_scale": guidance_scale, "batch": batch}
    rows = {strength: _draw(pipe, adapter, strength, prompt, range(images), seed, **settings) for strength in STRENGTHS}
    return _rows_figure(rows, judge, attribute, title or prompt)


def strength_slider(
    pipe: StableDiffusionPipeline,
    adapter: Adapter,
    prompt: str,
    *,
    images: int = 8,
    steps: int,
    guidance_scale: float,
    batch: int,
    seed: int,
    judge: Classifier | None = None,
    attribute: str = "gender",
) -> ipywidgets.VBox:
    """A slider for the strength of a patch, above the images; each strength is generated once."""
    slider = ipywidgets.SelectionSlider(options=STRENGTHS, description="strength", continuous_update=False)
    picture = ipywidgets.Image(format="png")
    settings = {"steps": steps, "guidance_scale": guidance_scale, "batch": batch}
    drawn: dict[float, bytes] = {}

    def show(change: dict) -> None:
        strength = change["new"]
        if strength not in drawn:
            rows = {strength: _draw(pipe, adapter, strength, prompt, range(images), seed, **settings)}
            drawn[strength] = _png(_rows_figure(rows, judge, attribute, prompt))
        picture.value = drawn[strength]

    slider.observe(show, names="value")
    show({"new": slider.value})
    return ipywidgets.VBox([slider, picture])


def picture_browser(records: pd.DataFrame, attribute: str, *, folder: str | Path) -> ipywidgets.VBox:
    """A menu of prompts above the class grid of the chosen one; `folder` as in `class_grid`."""
    choice = ipywidgets.Dropdown(options=list(records.prompt.unique()), description="prompt")
    picture = ipywidgets.Image(format="png")
    drawn: dict[str, bytes] = {}

    def show(change: dict) -> None:
        prompt = change["new"]
        if prompt not in drawn:
            figure = class_grid(records[records.prompt == prompt], attribute, folder=folder, title=prompt)
            drawn[prompt] = _png(figure)
        picture.value = drawn[prompt]

    choice.observe(show, names="value")
    show({"new": choice.value})
    return ipywidgets.VBox([choice, picture])


def _draw(pipe: StableDiffusionPipeline, adapter: Adapter, strength: float, *what, **settings) -> torch.Tensor:
    adapter.apply(pipe, strength)
    try:
        return draw(pipe, *what, **settings)
    finally:
        adapter.remove(pipe)


def _rows_figure(rows: dict[float, torch.Tensor], judge: Classifier | None, attribute: str, title: str) -> Figure:
    labelled = {f"strength {strength:g}": pictures for strength, pictures in rows.items()}
    if judge is None:
        return picture_rows(labelled, title=title)
    detector = load_detector(next(judge.parameters()).device)
    classes = {label: perceived_classes(pictures, detector, judge, attribute) for label, pictures in labelled.items()}
    return picture_rows(labelled, classes=classes, attribute=attribute, title=title)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
