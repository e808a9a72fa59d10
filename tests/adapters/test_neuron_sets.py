"""Files of neurons: the flat text as its users have it, and everything that is no such file."""

import pytest
import torch
from safetensors.torch import save_file

from fairnb.adapters.neuron_sets import load_neurons, read_flat_text
from fairnb.errors import UserError

UNET = torch.nn.Sequential(torch.nn.Linear(4, 4))  # 16 weights and 4 biases


@pytest.mark.parametrize("text", ["5\n0\n19\n", "5\r\n0\r\n19\r\n", "\ufeff5 0 19", "5\n\n0\n0\n19"])
def test_an_index_text_reads_the_same_from_every_editor(tmp_path, text):
    (tmp_path / "index.txt").write_text(text, encoding="utf-8", newline="")
    neurons = read_flat_text(tmp_path / "index.txt", UNET)
    assert {name: at.tolist() for name, at in neurons.items()} == {"0.weight": [0, 5], "0.bias": [3]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3\n20\n", "holds index 20, but the U-Net has 20 weights"),
        ("-3\n4\n", "holds index -3, but"),
        ("9" * 30, "one whole number a line"),
        ("1.5\n", "one whole number a line"),
        ("[1, 2]", "one whole number a line"),
        (b"\xff\xfe1\x00", "one whole number a line"),
    ],
)
def test_what_is_no_index_text_is_refused(tmp_path, text, says):
    (tmp_path / "index.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        read_flat_text(tmp_path / "index.txt", UNET)


def test_weights_are_no_neurons(tmp_path):
    save_file(UNET.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match=r"is no neuron file: 0\.\w+ holds torch.float32, not positions"):
        load_neurons(tmp_path / "unet.safetensors")
    save_file({"0.weight": torch.tensor([5, 0, 5])}, tmp_path / "neurons.safetensors")
    assert load_neurons(tmp_path / "neurons.safetensors")["0.weight"].tolist() == [0, 5]
