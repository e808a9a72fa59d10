"""Charts of measurements: biases, shares, neurons, training, targets. Each returns a closed matplotlib Figure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fairnb.adapters.neuron_sets import NeuronSet, count_neurons
from fairnb.figures.style import COLOURS, INK, PALE, SERIES, SOFT, drawable, entitle, new_figure, plain
from fairnb.measure.metrics import frequencies, wilson
from fairnb.measure.targets import rank_targets
from fairnb.prompts.attributes import get_attribute
from fairnb.training.losses import classification_loss

MOST_ROWS = 60  # of a chart: matplotlib draws at most 65,536 pixels, and nobody reads a figure of eleven metres


def bias_dumbbell(tables: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Bias per occupation with its 95 % interval, from tables of `metrics.bias_by_prompt`.

    The first table is "before"; an arrow leads to the second one. Tables whose label contains "control" have hollow
    markers. The band is the sampling floor, the score of a perfectly fair generator on as many faces. Of many prompts
    an even choice is drawn.
    """
    series = {label: _by_label(table) for label, table in tables.items()}
    rows, note = _even_choice(next(iter(series.values())).sort_values("bias", na_position="first"))
    order = rows.index
    figure, axis = new_figure(7.5, 0.38 * len(order) + 1.5)
    floors = pd.concat([table.floor for table in series.values()]).dropna()
    handles = [axis.axvspan(0, floors.mean() if len(floors) else 0, color=PALE, lw=0)]
    shift = np.linspace(0.22, -0.22, len(series)) if len(series) > 1 else [0]
    for number, (label, table) in enumerate(series.items()):
        table, at = table.reindex(order), np.arange(len(order)) + shift[number]
        colour, face = SERIES[number], "white" if "control" in label else SERIES[number]
        axis.hlines(at, table.low, table.high, color=colour, lw=3, alpha=0.28)
        handles += axis.plot(table.bias, at, "osD^"[number], color=colour, mfc=face, ms=6, ls="")
    if len([label for label in series if "control" not in label]) == 2:
        first, second = (table.reindex(order).bias for table in list(series.values())[:2])
        for row, (start, end) in enumerate(zip(first, second, strict=True)):
            if abs(end - start) > 0.02:
                tail, head = (start, row + shift[0]), (end, row + shift[1])
                axis.annotate(
                    "", head, tail, arrowprops={"arrowstyle": "->", "color": INK, "lw": 1, "shrinkA": 4, "shrinkB": 4}
                )
    axis.set_yticks(range(len(order)), _ticks(rows))
    axis.set_xlim(-0.02, max([1e-9, *(np.nanmax([*table.high, 0.1]) for table in series.values())]) * 1.03)
    axis.set_ylim(-0.6, len(order) - 0.4)
    axis.set_xlabel("bias (95 % interval); shaded: what a fair generator would score")
    labels = ["floor", *map(plain, series)]
    axis.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(labels), borderaxespad=0.2,
                handletextpad=0.3)  # fmt: skip
    axis.set_title("\n".join(filter(None, [plain(title), note])), pad=26)
    return figure


def class_shares(
    records: pd.DataFrame,
    attribute: str,
    *,
    truth: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
) -> Figure:
    """Share of the faces of each class per occupation, with Wilson's 95 % interval, in one panel per class.

    Two classes need one panel only. `truth` (occupation -> class -> share) is drawn as ticks. Of many prompts an even
    choice is drawn.
    """
    about = get_attribute(attribute)
    shown = about.classes[1:] if len(about.classes) == 2 else about.classes
    table = _by_label(frequencies(records, attribute)).sort_values(shown[-1], na_position="first")
    table, note = _even_choice(table)
    width = 6.5 if len(shown) == 1 else 10.5
    figure, axes = new_figure(width, 0.24 * len(table) + 1.3, columns=len(shown), sharey=True)
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
    first.set_yticks(rows, _ticks(table))
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    entitle(figure, title, note)
    return figure


def neuron_map(neurons: NeuronSet, unet: torch.nn.Module, *, title: str = "") -> Figure:
    """Where neurons are: per mille of the weights, and number, for each block of the U-Net and kind of layer."""
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
    figure, axis = new_figure(1.15 * share.shape[1] + 2.2, 0.5 * share.shape[0] + 1.4)
    colourbar = {"label": "neurons per 1000 weights"}
    sns.heatmap(share, annot=text, fmt="", cmap="YlGnBu", mask=share.isna(), vmin=0, ax=axis, cbar_kws=colourbar,
                linewidths=1, annot_kws={"fontsize": 8})  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0)
    axis.tick_params(rotation=0)
    axis.set_title(plain(title) or f"{count_neurons(neurons):,} neurons")
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Losses and bias (by the guide) per update, raw (thin) and smoothed (thick), from tables of history.csv.

    Updates of named prompts, which have no bias, are left out. Markers show the bias on the validation prompts.
    """
    columns = {
        "class_loss": "class loss",
        "image_loss": "image-semantics loss",
        "latent_loss": "latent distance",
        "bias": "bias (guide)",
    }
    figure, axes = new_figure(12.5, 3.2, columns=len(columns))
    for number, (label, history) in enumerate(histories.items()):
        colour, style = SERIES[number + 1], ("-", "--", "-.")[number]
        usual = history.dropna(subset="bias")
        for axis, name in zip(axes, columns, strict=True):
            axis.plot(usual["update"], usual[name], color=colour, lw=0.8, alpha=0.3)
            smooth = usual[name].ewm(halflife=max(1, len(usual) / 15)).mean()
            axis.plot(usual["update"], smooth, color=colour, ls=style, lw=2, label=plain(label))
        if "validation_bias" in history:
            seen = history.dropna(subset="validation_bias")
            mark = {"marker": "sD^"[number], "ms": 8, "ls": "", "color": colour, "mec": "white"}
            axes[-1].plot(seen["update"], seen.validation_bias, label=f"{plain(label)}, validation", **mark)
    for axis, name in zip(axes, columns.values(), strict=True):
        axis.set(title=name, xlabel="update", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes[-1].set_ylim(0, 1.05)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    entitle(figure, title)
    return figure


def target_landscape(
    probs: torch.Tensor, shares: Sequence[float], *, confidence: float = 0.8, attribute: str = "gender", title: str = ""
) -> Figure:
    """Targets of the rank rule for a batch with p(class 1) = `probs` [N], for each target share of class 1.

    Colour, letter and place show the target, the line its confidence; targets below `confidence` are hollow and do not
    count in the loss. The last panel is the loss of batches with 0, 1, ... N clear images of class 1.
    """
    names, number = get_attribute(attribute).classes, len(probs)
    colours = [COLOURS[attribute][name] for name in names]
    probs = probs.sort().values
    figure, axes = new_figure(3.1 * (len(shares) + 1), 3.2, columns=len(shares) + 1)
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
    entitle(figure, title)
    return figure


def _by_label(table: pd.DataFrame) -> pd.DataFrame:
    """The table indexed by occupation, or by prompt if the occupation is missing or has several prompts; where that is
    not unique either, with the prompt's number."""
    one = table.occupation.notna() & ~table.occupation.duplicated(keep=False)
    label = table.occupation.where(one, table.prompt).astype(str)
    numbered = table.prompt_id.astype(str) + ": " + table.prompt.astype(str)
    return table.set_index(label.mask(label.duplicated(keep=False), numbered).rename("row"))


def _even_choice(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most `MOST_ROWS` rows of a sorted table, evenly spaced from the first to the last, and what to say of that."""
    if len(table) <= MOST_ROWS:
        return table, ""
    chosen = table.iloc[np.linspace(0, len(table) - 1, MOST_ROWS).round().astype(int)]
    return chosen, f"{MOST_ROWS} of {len(table):,} prompts: an even choice from the lowest to the highest"


def _ticks(table: pd.DataFrame) -> list[str]:
    """The rows' labels on one line of at most 40 characters; with the prompt's number where the font lacks a character
    or several look the same."""
    labels = [" ".join(label.split()) for label in table.index]
    alike = Counter(plain(label, 40) for label in labels)
    return [
        plain(label if drawable(label) and alike[plain(label, 40)] == 1 else f"{number}: {label}", 40)
        for number, label in zip(table.prompt_id, labels, strict=True)
    ]


KINDS = ("convolution", "self-\nattention", "cross-\nattention", "feed-\nforward", "projection", "time", "norm")


def _kind(name: str) -> str:
    """The kind of layer of a U-Net weight."""
    for part, kind in ((".attn1.", 1), (".attn2.", 2), ("norm", 6), (".ff.", 3), ("time_emb", 5), ("proj_", 4)):
        if part in name:
            return KINDS[kind]
    return KINDS[0]


def _block(name: str) -> str:
    """The block of a U-Net weight: 'down 0', 'mid', 'up 2', 'input', 'output' or 'time'."""
    first, second, *_ = name.split(".")
    if first in ("down_blocks", "up_blocks"):
        return f"{first.split('_')[0]} {second}"
    return {"mid_block": "mid", "conv_in": "input", "time_embedding": "time"}.get(first, "output")


def _block_order(block: str) -> tuple[int, str]:
    return ("time", "input", "down", "mid", "up", "output").index(block.split()[0]), block


def _batch_loss(held: int, number: int, share: float, confidence: float) -> float:
    """Class loss of a batch in which `held` of `number` images are clearly class 1."""
    probs = torch.where(torch.arange(number) < held, 0.95, 0.05)
    target, sure = rank_targets(probs, share)
    return classification_loss(torch.stack([1 - probs, probs], 1).log(), target, sure >= confidence).item()
