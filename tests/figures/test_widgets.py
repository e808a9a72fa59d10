from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.figures import widgets
from fairnb.measure.images import image_path, save_image

HOW = {"images": 2, "steps": 2, "guidance_scale": 3.0, "batch": 8, "seed": 0}


class Judge(torch.nn.Module):
    """Calls every face male whose crop is bright."""

    size = 8
    classes = {"gender": ("female", "male")}

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def probabilities(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        bright = (crops.mean((1, 2, 3)) > 0).float()
        return {"gender": torch.stack([1 - bright, bright], 1)}


@pytest.fixture
def patched(tiny_pipe: Callable) -> tuple:
    pipe = tiny_pipe()
    adapter = BiasNeurons(pipe.unet, {"conv_out.weight": torch.arange(50)})
    adapter.parameters()[0].data += 0.5
    return pipe, adapter


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The strengths drawn so far, in order."""
    seen, draw = [], widgets._draw

    def noted(pipe, adapter, strength, *what, **settings):
        seen.append(strength)
        return draw(pipe, adapter, strength, *what, **settings)

    monkeypatch.setattr(widgets, "_draw", noted)
    return seen


def test_nobody_is_at_a_kernel_in_a_test():
    assert not widgets.interactive()


@pytest.mark.parametrize(("headless", "expected"), [("1", False), ("0", True), ("", True)])
def test_a_kernel_counts_unless_headless(monkeypatch: pytest.MonkeyPatch, headless: str, expected: bool):
    class Shell:
        kernel = None

    monkeypatch.setattr(widgets, "get_ipython", Shell)
    monkeypatch.setenv("FAIRNB_HEADLESS", headless)
    assert widgets.interactive() is expected


def test_strip_shows_every_strength_and_puts_the_weights_back(patched: tuple, drawings: list[float]):
    pipe, adapter = patched
    before = pipe.unet.conv_out.weight.clone()
    figure = widgets.strength_strip(pipe, adapter, "a photo of a pilot", **HOW)
    assert isinstance(figure, Figure) and drawings == list(widgets.STRENGTHS)
    pictures = [image.get_array() for image in figure.axes[0].images]
    assert len(pictures) == 2 * len(widgets.STRENGTHS)
    assert not np.allclose(pictures[0], pictures[-2])
    assert torch.equal(pipe.unet.conv_out.weight, before)


def test_strip_puts_the_weights_back_after_a_failure(patched: tuple, monkeypatch: pytest.MonkeyPatch):
    pipe, adapter = patched
    before = pipe.unet.conv_out.weight.clone()
    monkeypatch.setattr(widgets, "draw", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        widgets.strength_strip(pipe, adapter, "a photo of a pilot", **HOW)
    assert torch.equal(pipe.unet.conv_out.weight, before)


def test_slider_draws_a_strength_once(patched: tuple, drawings: list[float]):
    slider, picture = widgets.strength_slider(*patched, "a photo of a pilot", judge=Judge(), **HOW).children
    first = picture.value
    slider.value = 1.0
    assert picture.value != first and drawings == [0.0, 1.0]
    slider.value = 0.0
    assert picture.value == first and drawings == [0.0, 1.0]


def test_browser_shows_the_prompt_chosen(tmp_path: Path):
    rows = []
    for number in range(2):
        path = save_image(torch.full((3, 8, 8), number - 0.5), image_path(tmp_path, number, 0))
        row = {"prompt": f"prompt {number}", "path": path.relative_to(tmp_path).as_posix(), "face": True}
        rows.append({**row, "gender": "male", "gender_male": 0.9, "gender_female": 0.1})
    choice, picture = widgets.picture_browser(pd.DataFrame(rows), "gender", folder=tmp_path).children
    first = bytes(picture.value)
    choice.value = "prompt 1"
    assert first.startswith(b"\x89PNG") and bytes(picture.value) != first
