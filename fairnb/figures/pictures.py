"""Figures of images: grids, rows, and images sorted by class. Each function returns a closed matplotlib Figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fairnb.errors import UserError
from fairnb.figures.style import COLOURS, INK, NO_FACE, PALE, entitle, new_figure, plain, readable_on
from fairnb.measure.images import load_image
from fairnb.measure.metrics import summarise

SIDE = 512  # pixels of a picture in a figure; more would not be seen


def picture_grid(
    images: torch.Tensor | Sequence[str | Path],
    *,
    columns: int = 8,
    titles: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """A grid of images [N, 3, H, W] in [-1, 1], or paths, row by row; `titles` are shown above each."""
    pictures = _pixels(images)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lift = 0.28 if titles else 0.06
    height = rows * (1 + lift)
    figure, axis = new_figure(columns * 1.1, height * 1.1 + (0.35 if title else 0))
    for number, picture in enumerate(pictures):
        x, y = (number % columns) * 1.06, (number // columns) * (1 + lift) + lift
        axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="lanczos")
        if titles:
            axis.text(x + 0.5, y - 0.05, plain(titles[number]), ha="center", va="bottom", fontsize=8.5)
    _canvas(axis, columns * 1.06 - 0.06, height)
    entitle(figure, title)
    return figure


def picture_rows(
    rows: Mapping[str, torch.Tensor],
    *,
    classes: Mapping[str, Sequence[str | None]] | None = None,
    attribute: str = "gender",
    title: str = "",
) -> Figure:
    """Labelled rows of images [N, 3, H, W], one noise per column.

    With `classes` (label -> the class of each image, None without a face) each image has a frame in the colour of its
    class, and the counts are shown at the end of the row.
    """
    columns = max(len(images) for images in rows.values())
    width = 1.5 + 1.1 * columns + (0.9 if classes else 0)
    figure, axis = new_figure(width, 1.14 * len(rows) + (0.4 if title else 0))
    for line, (label, images) in enumerate(rows.items()):
        y = line * 1.12
        axis.text(-0.12, y + 0.5, plain(label), ha="right", va="center")
        for column, picture in enumerate(_pixels(images)):
            _framed(axis, picture, column * 1.1, y, classes[label][column] if classes else "", attribute)
        if classes:
            counts = [(name, list(classes[label]).count(name)) for name in [*COLOURS[attribute], None]]
            text = "\n".join(f"{number} {name or 'no face'}" for name, number in counts if number)
            axis.text(1.1 * columns + 0.05, y + 0.5, text, ha="left", va="center")
    _canvas(axis, width, len(rows) * 1.12 - 0.12)
    axis.set_xlim(-1.35, width - 1.4)
    entitle(figure, title)
    return figure


def class_grid(
    records: pd.DataFrame,
    attribute: str,
    *,
    folder: str | Path,
    count: int = 64,
    columns: int = 8,
    title: str = "",
) -> Figure:
    """The field's panel: images sorted by the judge's class, each in a frame of the class's colour, with its letter and
    a bar for the judge's confidence.

    `folder` is that of `judge_images`: the paths in `records` are relative to it. Of more than `count` images an even
    choice is shown.
    """
    rows = -(-min(count, len(records)) // columns)
    figure, axis = new_figure(columns * 1.05, rows * 0.93 + 0.75)
    _draw_classes(axis, records, attribute, folder, count, columns)
    _class_legend(figure, records, attribute)
    entitle(figure, title)
    return figure


def before_after(
    before: pd.DataFrame,
    after: pd.DataFrame,
    attribute: str,
    *,
    folders: tuple[str | Path, str | Path],
    count: int = 48,
    columns: int = 6,
    labels: tuple[str, str] = ("before", "after"),
    title: str = "",
) -> Figure:
    """Two class grids side by side, each below a bar of its shares, with n and bias; `folders` as in `class_grid`."""
    rows = -(-min(count, max(len(before), len(after))) // columns)
    figure = plt.figure(figsize=(columns * 1.8 + 0.4, rows * 0.8 + 1.75))
    plt.close(figure)
    axes = figure.subplots(2, 2, height_ratios=[0.42, rows * 0.8])
    for column, (records, folder, label) in enumerate(zip((before, after), folders, labels, strict=True)):
        _share_bar(axes[0, column], records, attribute, label)
        _draw_classes(axes[1, column], records, attribute, folder, count, columns)
    _class_legend(figure, pd.concat([before, after]), attribute)
    entitle(figure, title)
    return figure


def _pixels(images: torch.Tensor | Sequence[str | Path]) -> list[np.ndarray]:
    """Images [H, W, 3] in [0, 1]."""
    if len(images) == 0:
        raise UserError("there is no picture to show: generate some first")
    tensors = images if isinstance(images, torch.Tensor) else [load_image(path, SIDE) for path in images]
    return [((image.detach().cpu().float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy() for image in tensors]


def _canvas(axis, width: float, height: float) -> None:
    axis.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal")
    axis.axis("off")


def _draw_classes(axis, records: pd.DataFrame, attribute: str, folder: str | Path, count: int, columns: int) -> None:
    if records.empty:
        raise UserError("there is no picture to show: generate some first")
    chosen = records.iloc[np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int))]
    names = list(COLOURS[attribute])
    place = {name: number for number, name in enumerate(names)}
    probabilities = chosen[[f"{attribute}_{name}" for name in names]].max(axis=1)
    chosen = chosen.assign(sure=probabilities.where(chosen.face, 0), place=chosen[attribute].map(place))
    chosen = chosen.sort_values(["place", "sure"], ascending=[True, False], na_position="last", kind="stable")
    pictures = _pixels([Path(folder) / path for path in chosen.path])
    for number, (picture, row) in enumerate(zip(pictures, chosen.itertuples(), strict=True)):
        x, y = (number % columns) * 1.32, (number // columns) * 1.16
        colour = _framed(axis, picture, x, y, getattr(row, attribute) if row.face else None, attribute)
        axis.add_patch(Rectangle((x + 1.07, y), 0.1, 1, color=PALE, lw=0))
        axis.add_patch(Rectangle((x + 1.07, y + 1 - row.sure), 0.1, row.sure, color=colour, lw=0))
    _canvas(axis, columns * 1.32 - 0.15, -(-len(chosen) // columns) * 1.16 - 0.16)


def _framed(axis, picture: np.ndarray, x: float, y: float, name: str | None, attribute: str) -> str:
    """Draw an image with the frame and letter of its class (None: no face; "": unknown); return the colour."""
    axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="lanczos")
    if name == "":
        return INK
    colour = NO_FACE if name is None else COLOURS[attribute][name]
    axis.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=colour, lw=2.6))
    box = {"boxstyle": "square,pad=0.18", "fc": colour, "ec": "none"}
    letter, style = "–" if name is None else name[0].upper(), {"fontsize": 8, "weight": "bold", "va": "top"}
    axis.text(x + 0.06, y + 0.06, letter, color=readable_on(colour), bbox=box, **style)
    return colour


def _class_legend(figure: Figure, records: pd.DataFrame, attribute: str) -> None:
    handles = [
        Rectangle((0, 0), 1, 1, color=colour, label=f"{name[0].upper()}  {name}")
        for name, colour in COLOURS[attribute].items()
    ]
    if not records.face.all():
        handles.append(Rectangle((0, 0), 1, 1, color=NO_FACE, label="–  no face found"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, title="bar: the judge's confidence",
                  title_fontsize=8.5)  # fmt: skip


def _share_bar(axis, records: pd.DataFrame, attribute: str, label: str) -> None:
    """A bar with the shares of all faces, n, and the mean bias over prompts."""
    faces = records[records.face]
    left = 0.0
    for name, colour in COLOURS[attribute].items():
        share = float((faces[attribute] == name).mean()) if len(faces) else 0.0
        axis.barh(0, share, left=left, color=colour, height=1, ec="white")
        if share >= 0.2:
            middle = left + share / 2
            axis.text(
                middle, 0, f"{name} {share:.0%}", ha="center", va="center", fontsize=8.5, color=readable_on(colour)
            )
        left += share
    bias = f"bias {summarise(records, attribute)['mean']:.2f}" if len(faces) else "bias undefined: no face found"
    axis.set_title(f"{plain(label)}:  {bias},  {len(faces)} faces in {len(records)} images")
    axis.set(xlim=(0, 1))
    axis.axis("off")
