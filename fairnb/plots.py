"""Every figure of the course: pictures sorted by class, shares, biases before and after, neurons, training curves.

Each function returns a matplotlib Figure that is closed for pyplot, so that a notebook shows it once, as a cell's
value. Importing this module sets the look (seaborn's "ticks", nothing below 8 points) for the notebooks' own plots
too. Colour is never the only cue: classes also have letters, places or markers.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fairnb.alignment import classification_loss, rank_targets
from fairnb.attributes import get_attribute
from fairnb.errors import UserError
from fairnb.generate import load_image
from fairnb.metrics import frequencies, summarise, wilson
from fairnb.neurons import NeuronSet, count
from fairnb.records import write_atomically

# The field's colours for gender; the order of a dict is the order in which classes are drawn.
COLOURS = {
    "gender": {"male": "#2f6db3", "female": "#c8413b"},
    "skin_tone": {"light": "#e8c4a2", "medium": "#c28e5c", "brown": "#8a5a35", "dark": "#4a2f1f"},
    "age": {"young": "#6fbf9b", "old": "#5b3f8c"},
    "race": {"WMELH": "#e69f00", "Black": "#222222", "Indian": "#009e73", "Asian": "#56b4e9"},
}
NO_FACE = "#e3b505"
INK, SOFT, PALE = "#2b2b2b", "#8a8a8a", "#e6e6e6"
SERIES = ("#4d4d4d", "#1b7f5c", "#b5651d", "#6a4c93")  # before, after, control, anything else: apart in grey as well

sns.set_theme(
    style="ticks",
    rc={
        **{"font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5},
        **{"legend.fontsize": 8.5, "legend.frameon": False, "figure.titlesize": 11, "figure.dpi": 100},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": SOFT, "axes.labelcolor": INK},
        **{"text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.8},
        **{"xtick.major.width": 0.8, "ytick.major.width": 0.8, "figure.constrained_layout.use": True},
    },
)


def picture_grid(
    images: torch.Tensor | Sequence[str | Path],
    *,
    columns: int = 8,
    titles: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Pictures row by row: images [N, 3, H, W] in [-1, 1], or paths; `titles` stand above each."""
    pictures = _pixels(images)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lift = 0.28 if titles else 0.06
    height = rows * (1 + lift)
    figure, axis = _figure(columns * 1.1, height * 1.1 + (0.35 if title else 0))
    for number, picture in enumerate(pictures):
        x, y = (number % columns) * 1.06, (number // columns) * (1 + lift) + lift
        axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="lanczos")
        if titles:
            axis.text(x + 0.5, y - 0.05, titles[number], ha="center", va="bottom", fontsize=8.5)
    _canvas(axis, columns * 1.06 - 0.06, height)
    figure.suptitle(title)
    return figure


def picture_rows(
    rows: Mapping[str, torch.Tensor],
    *,
    classes: Mapping[str, Sequence[str | None]] | None = None,
    attribute: str = "gender",
    title: str = "",
) -> Figure:
    """Labelled rows of pictures [N, 3, H, W], one noise a column; with `classes` (label -> the class of each picture,
    None without a face) each is framed in its class's colour, and the row's counts stand at its end."""
    columns = max(len(images) for images in rows.values())
    width = 1.5 + 1.1 * columns + (0.9 if classes else 0)
    figure, axis = _figure(width, 1.14 * len(rows) + (0.4 if title else 0))
    for line, (label, images) in enumerate(rows.items()):
        y = line * 1.12
        axis.text(-0.12, y + 0.5, label, ha="right", va="center")
        for column, picture in enumerate(_pixels(images)):
            _framed(axis, picture, column * 1.1, y, classes[label][column] if classes else "", attribute)
        if classes:
            counts = [(name, list(classes[label]).count(name)) for name in [*COLOURS[attribute], None]]
            text = "\n".join(f"{number} {name or 'no face'}" for name, number in counts if number)
            axis.text(1.1 * columns + 0.05, y + 0.5, text, ha="left", va="center")
    _canvas(axis, width, len(rows) * 1.12 - 0.12)
    axis.set_xlim(-1.35, width - 1.4)
    figure.suptitle(title)
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
    """The field's panel: pictures sorted by the class a judge gave, each framed in its class's colour, with the
    class's letter and a bar as high as the judge's confidence.

    `folder` is the one that `look` was given: the paths in `records` are relative to it. Of more than `count`
    pictures an even choice is shown.
    """
    rows = -(-min(count, len(records)) // columns)
    figure, axis = _figure(columns * 1.05, rows * 0.93 + 0.75)
    _draw_classes(axis, records, attribute, folder, count, columns)
    _class_legend(figure, records, attribute)
    figure.suptitle(title)
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
    """Two class grids side by side, each under a bar of all its shares, with n and bias; `folders` as in
    `class_grid`."""
    rows = -(-min(count, max(len(before), len(after))) // columns)
    figure = plt.figure(figsize=(columns * 1.8 + 0.4, rows * 0.8 + 1.75))
    plt.close(figure)
    axes = figure.subplots(2, 2, height_ratios=[0.42, rows * 0.8])
    for column, (records, folder, label) in enumerate(zip((before, after), folders, labels, strict=True)):
        _share_bar(axes[0, column], records, attribute, label)
        _draw_classes(axes[1, column], records, attribute, folder, count, columns)
    _class_legend(figure, pd.concat([before, after]), attribute)
    figure.suptitle(title)
    return figure


def bias_dumbbell(tables: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Bias per occupation with its 95 % interval, from tables of `metrics.bias_by_prompt`.

    The first table is before; a single one after it is joined to it by an arrow, and a control (by its label) is
    hollow. The band is the sampling floor: what a perfectly fair generator would score on as many faces.
    """
    series = {label: _by_label(table) for label, table in tables.items()}
    order = next(iter(series.values())).bias.sort_values(na_position="first").index
    figure, axis = _figure(7.5, 0.38 * len(order) + 1.5)
    floors = pd.concat([table.floor for table in series.values()]).dropna()
    axis.axvspan(0, floors.mean() if len(floors) else 0, color=PALE, lw=0, label="floor")
    shift = np.linspace(0.22, -0.22, len(series)) if len(series) > 1 else [0]
    for number, (label, table) in enumerate(series.items()):
        table, at = table.reindex(order), np.arange(len(order)) + shift[number]
        colour, face = SERIES[number], "white" if "control" in label else SERIES[number]
        axis.hlines(at, table.low, table.high, color=colour, lw=3, alpha=0.28)
        axis.plot(table.bias, at, "osD^"[number], color=colour, mfc=face, ms=6, ls="", label=label)
    if len([label for label in series if "control" not in label]) == 2:
        first, second = (table.reindex(order).bias for table in list(series.values())[:2])
        for row, (start, end) in enumerate(zip(first, second, strict=True)):
            if abs(end - start) > 0.02:
                tail, head = (start, row + shift[0]), (end, row + shift[1])
                axis.annotate(
                    "", head, tail, arrowprops={"arrowstyle": "->", "color": INK, "lw": 1, "shrinkA": 4, "shrinkB": 4}
                )
    axis.set_yticks(range(len(order)), _ticks(order))
    axis.set_xlim(-0.02, max([1e-9, *(np.nanmax([*table.high, 0.1]) for table in series.values())]) * 1.03)
    axis.set_ylim(-0.6, len(order) - 0.4)
    axis.set_xlabel("bias (95 % interval); shaded: what a fair generator would score")
    _legend_above(axis, [label for label in series])
    axis.set_title(title, pad=26)
    return figure


def class_shares(
    records: pd.DataFrame,
    attribute: str,
    *,
    truth: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
) -> Figure:
    """Share of the faces in each class per occupation, with Wilson's 95 % interval; one panel a class (two classes:
    one panel, since the other share is the rest). `truth` (occupation -> class -> share) is drawn as ticks."""
    about = get_attribute(attribute)
    shown = about.classes[1:] if len(about.classes) == 2 else about.classes
    table = _by_label(frequencies(records, attribute)).sort_values(shown[-1], na_position="first")
    width = 6.5 if len(shown) == 1 else 10.5
    figure, axes = _figure(width, 0.24 * len(table) + 1.3, columns=len(shown), sharey=True)
    rows = np.arange(len(table))
    for axis, name in zip(np.atleast_1d(axes), shown, strict=True):
        bounds = [wilson(round(share * n) if n else 0, n) for share, n in zip(table[name], table.n, strict=True)]
        colour = COLOURS[attribute][name]
        axis.axvline(1 / len(about.classes), color=SOFT, lw=0.8, ls="--")
        axis.hlines(rows, *zip(*bounds, strict=True), color=colour, lw=2, alpha=0.55)
        axis.plot(table[name], rows, "o", color=colour, mec=INK, mew=0.5, ms=6, label="measured, 95 % interval")
        if truth:
            planted = [truth.get(occupation, {}).get(name, np.nan) for occupation in table.index]
            axis.plot(planted, rows, "|", color="black", ms=12, mew=2, label="planted")
        axis.set(xlim=(-0.03, 1.03), xlabel=f"share of {name}", ylim=(-0.7, len(table) - 0.3))
    first = np.atleast_1d(axes)[0]
    first.set_yticks(rows, _ticks(table.index))
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def neuron_map(neurons: NeuronSet, unet: torch.nn.Module, *, title: str = "") -> Figure:
    """Where neurons live: block of the U-Net x kind of layer; per mille of that cell's weights, and their number."""
    cells = [
        {"block": _block(name), "kind": _kind(name), "weights": weight.numel(), "neurons": len(neurons.get(name, ()))}
        for name, weight in unet.named_parameters()
    ]
    table = pd.DataFrame(cells).groupby(["block", "kind"], sort=False)[["neurons", "weights"]].sum()
    share = (1000 * table.neurons / table.weights).unstack()
    number = table.neurons.unstack()
    share = share.loc[sorted(share.index, key=_block_order), [kind for kind in KINDS if kind in share]]
    number = number.reindex_like(share)
    text = (
        share.map(lambda value: f"{value:.0f} ‰" if value >= 10 else f"{value:.2g} ‰")
        + "\n"
        + number.map("{:,.0f}".format)
    )
    figure, axis = _figure(1.15 * share.shape[1] + 2.2, 0.5 * share.shape[0] + 1.4)
    colourbar = {"label": "neurons per 1000 weights"}
    sns.heatmap(share, annot=text, fmt="", cmap="YlGnBu", mask=share.isna(), vmin=0, ax=axis, cbar_kws=colourbar,
                linewidths=1, annot_kws={"fontsize": 8})  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0)
    axis.tick_params(rotation=0)
    axis.set_title(title or f"{count(neurons):,} neurons")
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Losses and the guide's bias per update, raw (thin) and smoothed (thick), from `history.csv` without the updates
    whose prompt named a class (they have no bias); the bias on the validation occupations as markers."""
    columns = {
        "class_loss": "class loss",
        "image_loss": "image-semantics loss",
        "latent_loss": "latent distance",
        "bias": "bias (guide)",
    }
    figure, axes = _figure(12.5, 3.2, columns=len(columns))
    for number, (label, history) in enumerate(histories.items()):
        colour, style = SERIES[number + 1], ("-", "--", "-.")[number]
        plain = history.dropna(subset="bias")
        for axis, name in zip(axes, columns, strict=True):
            axis.plot(plain["update"], plain[name], color=colour, lw=0.8, alpha=0.3)
            smooth = plain[name].ewm(halflife=max(1, len(plain) / 15)).mean()
            axis.plot(plain["update"], smooth, color=colour, ls=style, lw=2, label=label)
        if "validation_bias" in history:
            seen = history.dropna(subset="validation_bias")
            mark = {"marker": "sD^"[number], "ms": 8, "ls": "", "color": colour, "mec": "white"}
            axes[-1].plot(seen["update"], seen.validation_bias, label=f"{label}, validation", **mark)
    for axis, name in zip(axes, columns.values(), strict=True):
        axis.set(title=name, xlabel="update", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes[-1].set_ylim(0, 1.05)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def target_landscape(
    probs: torch.Tensor, shares: Sequence[float], *, confidence: float = 0.8, attribute: str = "gender", title: str = ""
) -> Figure:
    """What the rank rule asks of a batch with p(class 1) = `probs` [N], for each wanted share of class 1: target by
    colour, letter and place, its confidence as a line (hollow below `confidence`: left out of the loss). The last
    panel is the loss of batches that hold 0, 1, ... N sure images of class 1."""
    names, number = get_attribute(attribute).classes, len(probs)
    colours = [COLOURS[attribute][name] for name in names]
    probs = probs.sort().values
    figure, axes = _figure(3.1 * (len(shares) + 1), 3.2, columns=len(shares) + 1)
    at = np.arange(number)
    for axis, share in zip(axes, shares, strict=False):
        target, sure = (values.numpy() for values in rank_targets(probs, share))
        axis.vlines(at, 0, probs, color=[colours[k] for k in target], lw=1.5, alpha=0.5)
        for k, name in enumerate(names):
            own = target == k
            fill = [colours[k] if value >= confidence else "white" for value in sure[own]]
            letter = f"target {name[0].upper()} ({name})"
            axis.scatter(
                at[own], probs[own], c=fill, edgecolor=colours[k], marker="os"[k], s=28, zorder=3, label=letter
            )
        axis.plot(at, sure, color=INK, lw=1.2, label="confidence of the target")
        axis.axhline(confidence, color=SOFT, lw=0.8, ls="--")
        axis.set(title=f"wanted: {share:.0%} {names[1]}", xlabel="image, sorted", ylim=(0, 1.05), xlim=(-1, number))
    axes[0].set_ylabel(f"p({names[1]})")
    for line, share in enumerate(shares):
        losses = [_batch_loss(held, number, share, confidence) for held in range(number + 1)]
        axes[-1].plot(
            np.arange(number + 1) / number, losses, color=SERIES[line % 4], ls=("-", "--", "-.", ":")[line % 4]
        )
        axes[-1].annotate(f"{share:.0%}", (share, -0.2), fontsize=8.5, ha="center", color=SERIES[line % 4], va="bottom")
    axes[-1].set(title="loss by wanted share", xlabel=f"share of {names[1]} in the batch", ylabel="class loss")
    axes[-1].set_ylim(-0.25, None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def save(figure: Figure, folder: str | Path, name: str, caption: str) -> Figure:
    """Write <folder>/figures/<name>.png and, for the report, its one-sentence caption <name>.txt; gives it back."""
    plt.close(figure)  # a notebook would show an open one a second time
    place = Path(folder) / "figures"
    write_atomically(place / f"{name}.png", lambda path: figure.savefig(path, dpi=150, facecolor="white"))
    write_atomically(place / f"{name}.txt", lambda path: path.write_text(caption.strip() + "\n", encoding="utf-8"))
    return figure


def _figure(width: float, height: float, columns: int = 1, **options):
    figure, axes = plt.subplots(1, columns, figsize=(width, height), **options)
    plt.close(figure)
    return figure, axes


def _pixels(images: torch.Tensor | Sequence[str | Path]) -> list[np.ndarray]:
    """Pictures [H, W, 3] in [0, 1]."""
    if len(images) == 0:
        raise UserError("there is no picture to show: generate some first")
    tensors = images if isinstance(images, torch.Tensor) else [load_image(path) for path in images]
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
    """A picture with its class's frame and letter (None: no face; "": nothing is known); gives the colour back."""
    axis.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="lanczos")
    if name == "":
        return INK
    colour = NO_FACE if name is None else COLOURS[attribute][name]
    axis.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=colour, lw=2.6))
    box = {"boxstyle": "square,pad=0.18", "fc": colour, "ec": "none"}
    letter, style = "–" if name is None else name[0].upper(), {"fontsize": 8, "weight": "bold", "va": "top"}
    axis.text(x + 0.06, y + 0.06, letter, color=_on(colour), bbox=box, **style)
    return colour


def _on(colour: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


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
    """One bar of the shares of all faces, with n and the mean bias over prompts."""
    faces = records[records.face]
    left = 0.0
    for name, colour in COLOURS[attribute].items():
        share = float((faces[attribute] == name).mean()) if len(faces) else 0.0
        axis.barh(0, share, left=left, color=colour, height=1, ec="white")
        if share >= 0.2:
            middle = left + share / 2
            axis.text(middle, 0, f"{name} {share:.0%}", ha="center", va="center", fontsize=8.5, color=_on(colour))
        left += share
    bias = f"bias {summarise(records, attribute)['mean']:.2f}" if len(faces) else "bias undefined: no face found"
    axis.set_title(f"{label}:  {bias},  {len(faces)} faces in {len(records)} images")
    axis.set(xlim=(0, 1))
    axis.axis("off")


def _by_label(table: pd.DataFrame) -> pd.DataFrame:
    """Indexed by occupation, or by prompt where an occupation is missing or has several prompts."""
    one = table.occupation.notna() & ~table.occupation.duplicated(keep=False)
    return table.set_index(table.occupation.where(one, table.prompt).rename("row"))


def _ticks(labels: Iterable[str]) -> list[str]:
    """Labels that leave room for the picture."""
    return [label if len(label) <= 40 else f"{label[:39]}…" for label in labels]


def _legend_above(axis, labels: list[str]) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(labels) + 1, borderaxespad=0.2, handletextpad=0.3)


KINDS = ("convolution", "self-\nattention", "cross-\nattention", "feed-\nforward", "projection", "time", "norm")


def _kind(name: str) -> str:
    """Kind of layer that a U-Net weight belongs to."""
    for part, kind in ((".attn1.", 1), (".attn2.", 2), ("norm", 6), (".ff.", 3), ("time_emb", 5), ("proj_", 4)):
        if part in name:
            return KINDS[kind]
    return KINDS[0]


def _block(name: str) -> str:
    """'down 0', 'mid', 'up 2', 'input', 'output' or 'time' of a U-Net weight's name."""
    first, second, *_ = name.split(".")
    if first in ("down_blocks", "up_blocks"):
        return f"{first.split('_')[0]} {second}"
    return {"mid_block": "mid", "conv_in": "input", "time_embedding": "time"}.get(first, "output")


def _block_order(block: str) -> tuple[int, str]:
    return ("time", "input", "down", "mid", "up", "output").index(block.split()[0]), block


def _batch_loss(held: int, number: int, share: float, confidence: float) -> float:
    """Class loss of a batch in which `held` of `number` images are surely class 1."""
    probs = torch.where(torch.arange(number) < held, 0.95, 0.05)
    target, sure = rank_targets(probs, share)
    return classification_loss(torch.stack([1 - probs, probs], 1).log(), target, sure >= confidence).item()
