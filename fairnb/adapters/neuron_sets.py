"""Sets of neurons (single scalar weights): set operations, a random control, and files."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.seeds import stable_seed
from fairnb.tensors import write_tensors

# Maps tensor names to sorted positions (int64) within the flattened tensor.
NeuronSet = dict[str, torch.Tensor]


def union(one: NeuronSet, two: NeuronSet) -> NeuronSet:
    """Neurons in either set."""
    none = torch.empty(0, dtype=torch.int64)
    names = [*one, *(name for name in two if name not in one)]
    return {name: torch.cat([one.get(name, none), two.get(name, none)]).unique() for name in names}


def intersection(one: NeuronSet, two: NeuronSet) -> NeuronSet:
    """Neurons in both sets; tensors without any are dropped."""
    return _not_empty({name: one[name][torch.isin(one[name], two[name])] for name in one if name in two})


def difference(one: NeuronSet, two: NeuronSet) -> NeuronSet:
    """Neurons in the first set but not in the second; tensors without any are dropped."""
    return _not_empty({name: at[~torch.isin(at, two[name])] if name in two else at for name, at in one.items()})


def count_neurons(neurons: NeuronSet) -> int:
    """The number of neurons of a set."""
    return sum(len(indices) for indices in neurons.values())


def random_like(neurons: NeuronSet, unet: torch.nn.Module, seed: int, avoid: NeuronSet | None = None) -> NeuronSet:
    """A random control: as many random weights of each tensor, none of them in `neurons` or `avoid`.

    A tensor with more than half of its weights taken has too few left; the rest is drawn from the tensor with most
    left.
    """
    if not count_neurons(neurons):
        raise UserError("a set without neurons has no random control: raise k or lower the frequency")
    taken = union(neurons, avoid or {})
    sizes = {name: weight.numel() for name, weight in unet.named_parameters()}
    left = {name: sizes[name] - len(taken[name]) for name in neurons}
    wanted = {name: min(len(indices), left[name]) for name, indices in neurons.items()}
    roomiest = max(left, key=lambda name: left[name] - wanted[name])
    wanted[roomiest] += count_neurons(neurons) - sum(wanted.values())
    if wanted[roomiest] > left[roomiest]:
        raise UserError(f"{count_neurons(neurons)} neurons leave too few weights for a random control: locate fewer")
    drawn = {}
    for name, number in wanted.items():
        rng = np.random.default_rng(stable_seed(seed, name, bits=64))
        free = np.ones(sizes[name], dtype=bool)
        free[taken[name].numpy()] = False
        drawn[name] = torch.from_numpy(np.sort(rng.choice(np.flatnonzero(free), number, replace=False)))
    return _not_empty(drawn)


def random_anywhere(neurons: NeuronSet, unet: torch.nn.Module, seed: int) -> NeuronSet:
    """Another random control: as many random weights of the whole U-Net, none of them in `neurons`."""
    offsets = flat_offsets(unet)
    free = np.ones(sum(size for _, size in offsets.values()), dtype=bool)
    for name, at in neurons.items():
        free[at.numpy() + offsets[name][0]] = False
    rng = np.random.default_rng(stable_seed(seed, "anywhere", bits=64))
    drawn = rng.choice(np.flatnonzero(free), count_neurons(neurons), replace=False)
    return from_flat(torch.from_numpy(np.sort(drawn)), unet)


def largest(values: torch.Tensor, count: int, unet: torch.nn.Module) -> NeuronSet:
    """The `count` weights with the largest of `values` [number of weights], in the order of `flat_offsets`."""
    return from_flat(values.topk(count).indices.sort().values, unet)


def save_neurons(neurons: NeuronSet, path: str | Path, metadata: dict[str, str]) -> None:
    """Write a set as safetensors, with one int32 tensor of positions per weight tensor."""
    tensors = {name: indices.to("cpu", torch.int32) for name, indices in neurons.items()}
    write_tensors(tensors, path, metadata)


def load_neurons(path: str | Path) -> NeuronSet:
    """Read a set; `UserError` if the file is missing, damaged or holds other numbers than positions."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"neuron file {path} cannot be read ({error}): locate the neurons again") from error
    for name, indices in tensors.items():
        if indices.ndim != 1 or indices.dtype not in (torch.int32, torch.int64):
            raise UserError(f"{path} is no neuron file: {name} holds {indices.dtype}, not positions; give one of find")
    return {name: indices.long().unique() for name, indices in tensors.items()}


def read_settings(path: str | Path) -> dict:
    """What was stored with a set: its settings; `UserError` if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"neuron file {path} cannot be read ({error}): locate the neurons again") from error


def write_flat_text(neurons: NeuronSet, path: str | Path, unet: torch.nn.Module) -> None:
    """Write the text format of Bias Neurons: one index per line, counted over all of `unet.named_parameters()`."""
    parts = [neurons[name] + start for name, (start, _) in flat_offsets(unet).items() if name in neurons]
    text = "\n".join(map(str, torch.cat(parts).tolist() if parts else [])) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def read_flat_text(path: str | Path, unet: torch.nn.Module) -> NeuronSet:
    """Read the text format of Bias Neurons for this U-Net; `UserError` for anything but indices within it."""
    total = sum(size for _, size in flat_offsets(unet).values())
    try:
        numbers = Path(path).read_text(encoding="utf-8-sig").split()  # some editors write a byte order mark
        flat = torch.from_numpy(np.unique(np.array(numbers, dtype=np.int64)))
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"neuron file {path} cannot be read ({error}): give one whole number a line") from error
    if len(flat) and not 0 <= flat[0] <= flat[-1] < total:
        wrong = int(flat[0] if flat[0] < 0 else flat[-1])
        raise UserError(f"neuron file {path} holds index {wrong}, but the U-Net has {total} weights: wrong model")
    return from_flat(flat, unet)


def from_flat(flat: torch.Tensor, unet: torch.nn.Module) -> NeuronSet:
    """The set of sorted indices counted over all of `unet.named_parameters()`."""
    neurons = {}
    for name, (start, size) in flat_offsets(unet).items():
        first, last = torch.searchsorted(flat, torch.tensor([start, start + size])).tolist()
        neurons[name] = flat[first:last] - start
    return _not_empty(neurons)


def flat_offsets(unet: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Map tensor names to (start in the flat numbering of all weights, size)."""
    sizes = [(name, weight.numel()) for name, weight in unet.named_parameters()]
    starts = np.cumsum([0] + [size for _, size in sizes])
    return {name: (int(start), size) for (name, size), start in zip(sizes, starts[:-1], strict=True)}


def _not_empty(neurons: NeuronSet) -> NeuronSet:
    return {name: indices for name, indices in neurons.items() if len(indices)}
