"""What a fine-tuning run remembers: its history, the moving average of its weights, and how to go on after a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fairnb.adapters import Adapter
from fairnb.errors import UserError
from fairnb.records import write_atomically


@dataclass
class State:
    """All that a checkpoint holds beside the adapter and the optimiser."""

    update: int = 0
    history: list[dict] = field(default_factory=list)
    averaged: list[torch.Tensor] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list)
    best_bias: float = float("inf")
    waited: int = 0


def average(state: State, adapter: Adapter, decay: float) -> None:
    """The moving average of the parameters; young averages forget faster, or they would remember the start."""
    decay = min(decay, (1 + state.update) / (10 + state.update))
    current = [parameter.detach() for parameter in adapter.parameters()]
    if not state.averaged:
        state.averaged = [torch.zeros_like(parameter) for parameter in current]
    torch._foreach_lerp_(state.averaged, current, 1 - decay)


def remember(state: State, bias: float) -> None:
    """Keep the average if its validation bias is the lowest so far, else count how long that has not happened."""
    if bias < state.best_bias:
        state.best_bias, state.waited = bias, 0
        state.best = [value.clone() for value in state.averaged]
    else:
        state.waited += 1


@contextmanager
def holding(adapter: Adapter, values: list[torch.Tensor]) -> Iterator[None]:
    """The adapter with other values of its parameters, while it lasts."""
    own = [parameter.detach().clone() for parameter in adapter.parameters()]
    _put(adapter, values)
    try:
        yield
    finally:
        _put(adapter, own)


@torch.no_grad()
def _put(adapter: Adapter, values: list[torch.Tensor]) -> None:
    for parameter, value in zip(adapter.parameters(), values, strict=True):
        parameter.copy_(value)
    adapter.update()


def save_checkpoint(path: Path, state: State, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Write all that `resume` needs; the old checkpoint stands until the new one is whole."""
    values = [parameter.detach() for parameter in adapter.parameters()]
    saved = {"state": vars(state), "values": values, "optimizer": optimizer.state_dict()}
    write_atomically(path, lambda temporary: torch.save(saved, temporary))


def resume(path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer) -> State:
    """The state of a killed run, put into adapter and optimiser; a fresh one without a checkpoint. `UserError` names
    a checkpoint that does not fit."""
    if not path.exists():
        return State()
    try:
        saved = torch.load(path, weights_only=True)
        state = State(**saved["state"])
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for parameter, value in zip(adapter.parameters(), saved["values"], strict=True):
                parameter.copy_(value)
    except Exception as error:  # a foreign or damaged file fails in many ways
        raise UserError(f"checkpoint {path} does not fit this run ({error}): delete it to start again") from error
    return state
