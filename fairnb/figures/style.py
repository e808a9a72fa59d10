"""The look of every figure: colours, seaborn theme, and saving with a caption.

Importing this module sets the theme for the plots of a notebook, too. Colour is never the only cue: classes also have
letters, places or markers.
"""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from fairnb.files import write_atomically

# The field's colours for gender. Classes are drawn in the order of these dicts.
COLOURS = {
    "gender": {"male": "#2f6db3", "female": "#c8413b"},
    "skin_tone": {"light": "#e8c4a2", "medium": "#c28e5c", "brown": "#8a5a35", "dark": "#4a2f1f"},
    "age": {"young": "#6fbf9b", "old": "#5b3f8c"},
    "race": {"WMELH": "#e69f00", "Black": "#222222", "Indian": "#009e73", "Asian": "#56b4e9"},
}
NO_FACE = "#e3b505"
INK, SOFT, PALE = "#2b2b2b", "#8a8a8a", "#e6e6e6"
SERIES = ("#4d4d4d", "#1b7f5c", "#b5651d", "#6a4c93")  # before, after, control, other: distinct in grey, too


sns.set_theme(
    style="ticks",
    rc={
        **{"font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5},
        **{"legend.fontsize": 8.5, "legend.frameon": False, "figure.titlesize": 11, "figure.dpi": 100},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": SOFT, "axes.labelcolor": INK},
        **{"text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.8},
        **{"xtick.major.width": 0.8, "ytick.major.width": 0.8, "figure.constrained_layout.use": True},
        "text.usetex": False,  # to LaTeX more than dollars means something
    },
)


def save_figure(figure: Figure, folder: str | Path, name: str, caption: str) -> Figure:
    """Write <folder>/figures/<name>.png and its caption <name>.txt for the report; return the figure."""
    plt.close(figure)  # a notebook would show an open figure twice
    place = Path(folder) / "figures"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a line for each; charts number such prompts
        write_atomically(place / f"{name}.png", lambda path: figure.savefig(path, dpi=150, facecolor="white"))
    write_atomically(place / f"{name}.txt", lambda path: path.write_text(caption.strip() + "\n", encoding="utf-8"))
    return figure


def new_figure(width: float, height: float, columns: int = 1, **options):
    figure, axes = plt.subplots(1, columns, figsize=(width, height), **options)
    plt.close(figure)
    return figure, axes


def plain(text: str, length: int = 200) -> str:
    """Text as it stands, shortened to `length` characters: matplotlib would read a formula between two dollars, and
    stop at a wrong one."""
    return (text if len(text) <= length else f"{text[: length - 1]}…").replace("$", r"\$")


def entitle(figure: Figure, title: str, note: str = "") -> None:
    """Give a figure a title, which may be a prompt, in as many lines as it needs, and a note below it."""
    figure.suptitle("\n".join(filter(None, [plain(title), note])), wrap=True)


def drawable(text: str) -> bool:
    """Whether the figures' font has all characters of a text; others are drawn as boxes."""
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(character)) for character in text)


def readable_on(colour: str) -> str:
    """Black or white, whichever is more readable on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"
