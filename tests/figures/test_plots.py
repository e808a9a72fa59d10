from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

matplotlib.use("Agg")

from fairnb.errors import UserError
from fairnb.figures import charts, pictures, style
from fairnb.measure.images import image_path, save_image
from fairnb.measure.metrics import bias_by_prompt
from fairnb.prompts.attributes import AGE, ATTRIBUTES, GENDER, SKIN_TONE

PROMPTS = ("doctor", "nurse", "pilot")


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Three prompts of four images; the last image of each has no face."""
    rng, rows = np.random.default_rng(0), []
    for prompt_id, occupation in enumerate(PROMPTS):
        for image in range(4):
            path = save_image(torch.rand(3, 8, 8) * 2 - 1, image_path(tmp_path, prompt_id, image))
            about = {"prompt_id": prompt_id, "prompt": f"a photo of a {occupation}", "occupation": occupation}
            row = {**about, "split": "test", "image": image, "seed": 0, "path": path.relative_to(tmp_path).as_posix()}
            row |= {"face": image < 3, "face_probability": 0.99, **dict.fromkeys(["box_x0", "box_y0"], 1.0)}
            for attribute in (GENDER, SKIN_TONE, AGE):
                seen = rng.dirichlet(np.ones(len(attribute.classes)))
                row[attribute.name] = attribute.classes[seen.argmax()] if row["face"] else None
                for name, value in zip(attribute.classes, seen, strict=True):
                    row[f"{attribute.name}_{name}"] = value if row["face"] else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def without_faces(records: pd.DataFrame) -> pd.DataFrame:
    unseen = {name: np.nan for name in records if name.startswith(("gender_", "skin_tone_", "age_"))}
    return records.assign(face=False, gender=None, skin_tone=None, age=None, **unseen)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def drawn(figure: Figure) -> Figure:
    """Rendered, closed for pyplot, and without a text below 8 points."""
    figure.canvas.draw()
    assert figure.number not in matplotlib.pyplot.get_fignums()
    assert all(text.get_fontsize() >= 8 for text in figure.findobj(matplotlib.text.Text) if text.get_text())
    return figure


def test_every_class_of_every_attribute_has_a_colour_of_its_own():
    for name, attribute in ATTRIBUTES.items():
        assert set(style.COLOURS[name]) == set(attribute.classes)
        assert len({*style.COLOURS[name].values(), style.NO_FACE}) == len(attribute.classes) + 1


def test_picture_grid_takes_a_tensor_or_paths(records: pd.DataFrame, tmp_path: Path):
    figure = drawn(pictures.picture_grid(torch.zeros(5, 3, 8, 8), columns=3, titles=list("abcde"), title="five"))
    assert len(figure.axes[0].images) == 5 and {"a", "e"} <= set(texts(figure))
    assert len(drawn(pictures.picture_grid([tmp_path / path for path in records.path])).axes[0].images) == len(records)


def test_a_picture_keeps_its_colours():
    image = torch.stack([torch.full((4, 4), value) for value in (-1.0, 0.0, 1.0)])[None]
    shown = pictures.picture_grid(image).axes[0].images[0].get_array()
    assert np.allclose(shown[0, 0], [0, 0.5, 1])


def test_no_picture_is_said():
    with pytest.raises(UserError, match="no picture"):
        pictures.picture_grid(torch.zeros(0, 3, 8, 8))


def test_picture_rows_count_the_classes_of_each_row():
    rows = {"strength 0": torch.zeros(3, 3, 8, 8), "strength 1": torch.zeros(3, 3, 8, 8)}
    classes = {"strength 0": ["male", "male", None], "strength 1": ["male", "female", "female"]}
    figure = drawn(pictures.picture_rows(rows, classes=classes))
    assert {"2 male\n1 no face", "1 male\n2 female", "strength 0", "–"} <= set(texts(figure))
    assert len(drawn(pictures.picture_rows(rows)).axes[0].images) == 6


def test_class_grid_is_sorted_by_class_and_confidence(tmp_path: Path, records: pd.DataFrame):
    figure = drawn(pictures.class_grid(records, "gender", folder=tmp_path, count=64, columns=4))
    letters = [text.get_text() for text in figure.axes[0].texts]
    assert letters == sorted(letters, key="MF–".index) and letters.count("–") == 3
    bars = [patch.get_height() for patch in figure.axes[0].patches[2::3]]
    faces = records[records.face]
    men = faces[faces.gender == "male"].gender_male.sort_values(ascending=False)
    assert np.allclose(bars[: len(men)], men) and bars[-3:] == [0, 0, 0]


def test_class_grid_chooses_evenly(tmp_path: Path, records: pd.DataFrame):
    assert len(pictures.class_grid(records, "age", folder=tmp_path, count=5).axes[0].images) == 5


def test_before_after_prints_bias_and_faces(tmp_path: Path, records: pd.DataFrame):
    bias = bias_by_prompt(records, "gender").bias.mean()
    figure = drawn(pictures.before_after(records, without_faces(records), "gender", folders=(tmp_path, tmp_path)))
    assert f"before:  bias {bias:.2f},  9 faces in 12 images" in texts(figure)
    assert "after:  bias undefined: no face found,  0 faces in 12 images" in texts(figure)


@pytest.mark.parametrize("series", [1, 2, 3])
def test_dumbbell_has_a_row_per_occupation(records: pd.DataFrame, series: int):
    tables = {str(number): bias_by_prompt(records, "skin_tone") for number in range(series)}
    axis = drawn(charts.bias_dumbbell(tables, title="bias")).axes[0]
    assert sorted(label.get_text() for label in axis.get_yticklabels()) == sorted(PROMPTS)


def test_dumbbell_matches_rows_by_occupation(records: pd.DataFrame):
    before = bias_by_prompt(records, "gender")
    axis = charts.bias_dumbbell({"before": before, "after": before.iloc[::-1]}).axes[0]
    one, two = axis.lines
    assert np.allclose(one.get_xdata(), two.get_xdata())


@pytest.mark.parametrize("attribute", ["gender", "skin_tone", "age"])
def test_class_shares_show_measured_and_planted(records: pd.DataFrame, attribute: str):
    classes = ATTRIBUTES[attribute].classes
    truth = {occupation: dict.fromkeys(classes, 1 / len(classes)) for occupation in PROMPTS[:2]}
    figure = drawn(charts.class_shares(records, attribute, truth=truth))
    assert len(figure.axes) == (1 if len(classes) == 2 else len(classes))
    planted = figure.axes[0].lines[-1].get_xdata()
    assert np.isnan(planted).sum() == 1 and np.nanmax(planted) == 1 / len(classes)


def test_no_face_at_all_breaks_no_figure(tmp_path: Path, records: pd.DataFrame):
    blind = without_faces(records)
    drawn(pictures.class_grid(blind, "gender", folder=tmp_path))
    drawn(charts.class_shares(blind, "skin_tone"))
    table = bias_by_prompt(blind, "gender")
    drawn(charts.bias_dumbbell({"before": table, "after": table}))


def test_neuron_map_counts_every_neuron(tiny_pipe):
    unet = tiny_pipe().unet
    neurons = {name: torch.arange(2) for name, _ in unet.named_parameters()}
    figure = drawn(charts.neuron_map(neurons, unet))
    cells = [text.get_text().split("\n")[1] for text in figure.axes[0].texts]
    assert sum(int(cell.replace(",", "")) for cell in cells) == 2 * len(neurons)
    kinds = {label.get_text() for label in figure.axes[0].get_xticklabels()}
    assert {"convolution", "self-\nattention", "cross-\nattention", "time", "norm"} <= kinds


def test_training_curves_with_and_without_validation():
    history = pd.DataFrame({"update": [1, 2], "class_loss": [1.0, 0.5], "image_loss": [0.1, 0.1], "bias": [0.9, 0.7]})
    history["latent_loss"] = 0.2
    checked = history.assign(validation_bias=[np.nan, 0.8])
    figure = drawn(charts.training_curves({"neurons": checked, "random": history}))
    marks = [line for line in figure.axes[-1].lines if "validation" in str(line.get_label())]
    assert len(marks) == 1 and marks[0].get_ydata() == [0.8]


def test_target_landscape_has_its_lowest_loss_at_the_wanted_share():
    figure = drawn(charts.target_landscape(torch.rand(24), [0.5, 0.25]))
    for line, share in zip(figure.axes[-1].lines, (0.5, 0.25), strict=True):
        x, y = line.get_data()
        assert y[np.argmin(abs(x - share))] == pytest.approx(min(y), abs=1e-6)


def test_save_writes_picture_and_caption(tmp_path: Path):
    figure = pictures.picture_grid(torch.zeros(1, 3, 8, 8))
    assert style.save_figure(figure, tmp_path, "one", " One picture. ") is figure
    assert (tmp_path / "figures" / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figures" / "one.txt").read_text() == "One picture.\n"


def test_several_prompts_of_one_occupation_and_long_ones_have_rows_of_their_own(records: pd.DataFrame):
    records = records.assign(occupation="doctor", prompt=records.prompt + " and so on" * 50)
    table = bias_by_prompt(records, "gender")
    for figure in (charts.bias_dumbbell({"before": table, "after": table}), charts.class_shares(records, "gender")):
        drawn(figure)
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert len(labels) == 3 and len(set(labels)) == 3 and max(map(len, labels)) == 40


ODD = (
    *("the singer Tra$$", "a $5% off salesperson $", r"$\frac{a$ _x_ ^2 \$5", "_under_", "%s {x} #1f77b4", "NA"),
    *("two\nlines", "😀 doctor", "صورة طبيب", "医師", "医者", "<b>&</b>", "a" * 3000, "a" * 2999 + "b"),
)


def biases(prompts: list[str], occupation: str | None = None) -> pd.DataFrame:
    """A table as of `bias_by_prompt` and of `frequencies`, without the time they take for many prompts."""
    share = np.linspace(0, 1, len(prompts))
    about = {"prompt_id": range(len(prompts)), "prompt": prompts, "occupation": occupation, "split": "test", "n": 4}
    values = {"bias": share, "low": share / 2, "high": share, "floor": 0.4, "female": 1 - share, "male": share}
    return pd.DataFrame({**about, **values, "young": share, "old": 1 - share})


def charts_of(table: pd.DataFrame, records: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    monkeypatch.setattr(charts, "frequencies", lambda records, attribute: table)
    before_and_after = charts.bias_dumbbell({"be$fore": table, "_after$": table.iloc[::-1]})
    return [before_and_after, charts.class_shares(records, "gender")]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_text_is_drawn_as_it_stands(records: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    """No formula, no break, and no two rows that look the same."""
    for figure in charts_of(biases(list(ODD)), records, monkeypatch):
        drawn(figure)
        labels = [label._preprocess_math(label.get_text()) for label in figure.axes[0].get_yticklabels()]
        assert not any(formula for _, formula in labels)
        shown = [text for text, _ in labels]
        assert set(ODD[:6]) < set(shown) and {"two lines", "9: 医師", "10: 医者", "<b>&</b>"} < set(shown)
        assert len(set(shown)) == len(ODD) and all(len(text) <= 40 for text in shown)
        assert {f"12: {'a' * 35}…", f"13: {'a' * 35}…"} < set(shown)


def test_the_legend_names_every_table(records: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    figure, _ = charts_of(biases(list("abc")), records, monkeypatch)
    drawn(figure)
    shown = [text._preprocess_math(text.get_text())[0] for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["floor", "be$fore", "_after$"]


@pytest.mark.parametrize("count", [60, 61, 2000])
def test_of_many_prompts_an_even_choice_is_drawn_and_said(records, monkeypatch, tmp_path, count: int):
    table = biases([f"prompt {number}" for number in range(count)])
    for number, figure in enumerate(charts_of(table, records, monkeypatch)):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert len(set(labels)) == len(labels) == 60 and labels[0] == "prompt 0" and labels[-1] == f"prompt {count - 1}"
        note = f"60 of {count:,} prompts: an even choice from the lowest to the highest"
        assert (note in texts(figure)) == (count > 60)
        if count > 61:
            style.save_figure(figure, tmp_path, str(number), "")


def test_titles_are_prompts_too(records: pd.DataFrame, tmp_path: Path):
    images = torch.zeros(2, 3, 8, 8)
    for title in (" ".join(ODD[:6]), "x" * 3000):
        for figure in (
            pictures.picture_grid(images, titles=["$a$", r"$\frac{$"], title=title),
            pictures.picture_rows({title[:30]: images}, title=title),
            pictures.class_grid(records, "gender", folder=tmp_path, title=title),
            pictures.before_after(records, records, "age", folders=(tmp_path,) * 2, labels=("$a$", "$"), title=title),
        ):
            drawn(figure)
            assert not any(text._preprocess_math(text.get_text())[1] for text in figure.findobj(matplotlib.text.Text))


def test_the_font_of_the_figures_has_latin_and_no_chinese_letters():
    assert style.drawable("Ärztin ½") and not style.drawable("医")


def test_prompts_that_occur_twice_or_are_another_ones_occupation_have_rows_of_their_own(records, monkeypatch):
    table = biases(["cook", "a cook", "a judge", "a judge"]).assign(occupation=[None, "cook", None, None])
    for figure in charts_of(table, records, monkeypatch):
        labels = {label.get_text() for label in drawn(figure).axes[0].get_yticklabels()}
        assert labels == {"0: cook", "1: a cook", "2: a judge", "3: a judge"}
