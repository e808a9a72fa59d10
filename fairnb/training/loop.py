"""What a fine-tuning run remembers: its history, the moving average of its weights, and how to go on after a crash.

The one loop of everything that trains an adapter: what an update is, the objective says (`finetune`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from fairnb.adapters.protocol import Adapter
from fairnb.errors import UserError
from fairnb.files import write_atomically
from fairnb.profiles import Finetune


@dataclass
class TrainingState:
    """All that a checkpoint holds beside the adapter and the optimiser."""

    update: int = 0
    history: list[dict] = field(default_factory=list)
    averaged: list[torch.Tensor] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list)
    best_bias: float = float("inf")
    waited: int = 0


def average(state: TrainingState, adapter: Adapter, decay: float) -> None:
    """The moving average of the parameters; young averages forget faster, or they would remember the start."""
    decay = min(decay, (1 + state.update) / (10 + state.update))
    current = [parameter.detach() for parameter in adapter.parameters()]
    if not state.averaged:
        state.averaged = [torch.zeros_like(parameter) for parameter in current]
    torch._foreach_lerp_(state.averaged, current, 1 - decay)


def remember(state: TrainingState, bias: float) -> None:
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


def save_checkpoint(path: Path, state: TrainingState, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Write all that `resume` needs; the old checkpoint stands until the new one is whole."""
    values = [parameter.detach() for parameter in adapter.parameters()]
    saved = {"state": vars(state), "values": values, "optimizer": optimizer.state_dict()}
    write_atomically(path, lambda temporary: torch.save(saved, temporary))


def resume(path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer) -> TrainingState:
    """The state of a killed run, put into adapter and optimiser; a fresh one without a checkpoint. `UserError` names
    a checkpoint that does not fit."""
    if not path.exists():
        return TrainingState()
    try:
        saved = torch.load(path, weights_only=True)
        state = TrainingState(**saved["state"])
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for parameter, value in zip(adapter.parameters(), saved["values"], strict=True):
                parameter.copy_(value)
    except Exception as error:  # a foreign or damaged file fails in many ways
        raise UserError(f"checkpoint {path} does not fit this run ({error}): delete it to start again") from error
    return state


def train(
    adapter: Adapter,
    settings: Finetune,
    folder: str | Path,
    update: Callable[[int], dict],
    validate: Callable[[], float] | None,
    about: dict,
    accelerator: Accelerator,
) -> pd.DataFrame:
    """Train the adapter for `settings.updates` updates; returns the history, a row an update.

    `update(number)` puts a gradient into the adapter's parameters, the same in every process, and returns its row,
    with `loss` and `prompt`. `validate()` tells the bias of the averaged weights. Leaves in `folder`:
    `patch.safetensors` (the moving average of the weights where its validation bias was lowest; `about` is its record),
    `history.csv` and, while it runs, `checkpoint.pt`, from which a killed run resumes with equal results. `UserError`
    when the loss is not finite.
    """
    folder, main = Path(folder), accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(adapter.parameters(), rate, weight_decay=settings.weight_decay)
    state = resume(folder / "checkpoint.pt", adapter, optimizer)
    adapter.attach()
    numbers = range(state.update, settings.updates)
    progress = tqdm(numbers, "fine-tune", settings.updates, initial=state.update, mininterval=2, disable=not main)
    try:
        for number in progress:
            if state.waited >= settings.patience:
                break
            row = update(number)
            if not np.isfinite(row["loss"]):
                raise UserError(
                    f"the loss is {row['loss']} at update {number} ({row['prompt']}): lower finetune.learning_rate "
                    f"({rate}) and start again in a new folder"
                )
            for group in optimizer.param_groups:  # decays to 0: large steps overshoot from one job to the next
                group["lr"] = rate * (1 - number / settings.updates)
            optimizer.step()
            optimizer.zero_grad()
            adapter.update()
            average(state, adapter, settings.ema)
            state.update = number + 1
            row["update"] = state.update
            if validate and state.update % settings.validate_every == 0:
                with holding(adapter, state.averaged):
                    row["validation_bias"] = validate()
                remember(state, row["validation_bias"])
            state.history.append(row)
            progress.set_postfix({key: f"{row[key]:.2f}" for key in ("loss", "bias") if key in row}, refresh=False)
            if state.update % settings.checkpoint_every == 0 and main:
                save_checkpoint(folder / "checkpoint.pt", state, adapter, optimizer)
        history = pd.DataFrame(state.history)
        if main:
            best = state.best_bias if state.best else None
            with holding(adapter, state.best or state.averaged):
                adapter.save(folder / "patch.safetensors", {"updates": state.update, "validation_bias": best} | about)
            write_atomically(folder / "history.csv", lambda path: history.to_csv(path, index=False))
            (folder / "checkpoint.pt").unlink(missing_ok=True)
    finally:
        adapter.detach()
    accelerator.wait_for_everyone()
    return history
