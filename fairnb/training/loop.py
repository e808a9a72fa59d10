"""The training loop: gradient, optimiser, moving average, validation, early stopping, checkpoints, exact resume.

Every training in this package runs in it: adapters with any objective (`train_adapter`) and the models of the mini
world. The objective is a function that puts a gradient into the parameters.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.optim.lr_scheduler import LRScheduler, StepLR
from tqdm import tqdm

from fairnb.adapters.protocol import Adapter
from fairnb.errors import AGAIN, Diverged, UserError
from fairnb.files import one_run_in, write_atomically
from fairnb.identity import refuse_another
from fairnb.profiles import Finetune

ANOTHER = "delete it to start again, choose another folder, or repeat the settings of that run"


@dataclass
class Progress:
    """What a training has reached: finished updates, a history row for each, and the best validation so far."""

    update: int = 0
    history: list[dict] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list)
    best_bias: float = float("inf")
    waited: int = 0  # validations since the best one

    def keep_if_best(self, bias: float, values: Sequence[torch.Tensor]) -> None:
        """Keep the parameter values if their validation bias is the lowest so far."""
        if bias < self.best_bias:
            self.best_bias, self.waited = bias, 0
            self.best = [value.clone() for value in values]
        else:
            self.waited += 1


def run_updates(
    parameters: Sequence[torch.Tensor],
    gradient: Callable[[int], dict],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    ema: EMAModel,
    checkpoint: Path,
    *,
    name: str,
    identity: dict,
    updates: int,
    checkpoint_every: int,
    after_update: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[Progress], bool] = lambda progress: False,
    buffers: Sequence[torch.Tensor] = (),
    main: bool = True,
) -> Progress:
    """Run the updates that `checkpoint` says are left.

    `gradient(number)` puts the gradient of an update into `parameters` and returns its history row with `loss`.
    `after_update` follows each update, when the row is the last of the history. Randomness must depend on the number of
    the update alone: then a killed run that is started again ends with the same values. `buffers` are other tensors
    that change (such as those of BatchNorm). Only the `main` process writes. `Diverged` if the loss is not finite,
    `UserError` if the checkpoint is that of a run with another `identity`. On SIGTERM, which a cluster sends before it
    takes a machine away, the update is finished, a checkpoint written, and the process ends with `AGAIN`.
    """
    progress = _resume(checkpoint, identity, parameters, buffers, optimizer, schedule, ema)
    left = range(progress.update, updates)
    bar = tqdm(left, name, updates, initial=progress.update, mininterval=2, disable=not main)
    with _noting_sigterm() as asked_to_end:
        for number in bar:
            if stop(progress):
                break
            row = gradient(number)
            if not np.isfinite(row["loss"]):
                raise Diverged(
                    f"the loss is {row['loss']} at update {number}: lower the learning rate (finetune.learning_rate in "
                    f"a profile, now {schedule.get_last_lr()[0]:g}) and start again in a new folder"
                )
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            ema.step(parameters)
            progress.update = number + 1
            progress.history.append(row | {"update": progress.update})
            after_update(progress)
            shown = {key: f"{progress.history[-1][key]:.3f}" for key in ("loss", "bias") if key in row}
            bar.set_postfix(shown, refresh=False)
            due = progress.update % checkpoint_every == 0 and progress.update < updates
            if main and (due or asked_to_end.is_set()):
                save_checkpoint(checkpoint, identity, progress, parameters, buffers, optimizer, schedule, ema)
            if asked_to_end.is_set():
                sys.exit(AGAIN)
    return progress


@contextmanager
def _noting_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets within the context."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals can be handled in no other
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def train_adapter(
    adapter: Adapter,
    settings: Finetune,
    folder: str | Path,
    gradient: Callable[[int], dict],
    validate: Callable[[], float] | None,
    identity: dict,
    record: dict,
    accelerator: Accelerator,
) -> pd.DataFrame:
    """Train an adapter for at most `settings.updates` updates; return the history, a row per update.

    `gradient(number)` puts the same gradient into the adapter's parameters in every process and returns its row, with
    `loss` and `prompt`. `validate()` returns the bias of the averaged parameters. By default the learning rate decays
    linearly to 0, since large late steps overshoot from one occupation to the next. `folder` then holds history.csv and
    patch.safetensors: the moving average with the lowest validation bias, with `record` in its header, which includes
    the run's `identity`. While it runs there is checkpoint.pt, from which a killed run of the same identity resumes
    with identical results. `Diverged` if the loss is not finite, `UserError` if the checkpoint is that of another run,
    or another run uses the folder.
    """
    folder, main, parameters = Path(folder), accelerator.is_main_process, adapter.parameters()
    optimizer = _optimizer(parameters, settings)
    schedule = _schedule(optimizer, settings)
    ema = EMAModel(parameters, decay=settings.ema)

    def update(number: int) -> dict:
        adapter.update()  # to the values of the checkpoint, or after the last step of the optimiser
        return gradient(number)

    def after_update(progress: Progress) -> None:
        if validate and progress.update % settings.validate_every == 0:
            with _holding(adapter, ema.shadow_params):
                bias = validate()
            progress.history[-1]["validation_bias"] = bias
            progress.keep_if_best(bias, ema.shadow_params)

    alone = one_run_in(folder) if main else nullcontext()
    with alone, _attached(adapter):
        progress = run_updates(
            parameters,
            update,
            optimizer,
            schedule,
            ema,
            folder / "checkpoint.pt",
            name="fine-tune",
            identity=identity,
            updates=settings.updates,
            checkpoint_every=settings.checkpoint_every,
            after_update=after_update,
            stop=lambda progress: progress.waited >= settings.patience,
            main=main,
        )
        history = pd.DataFrame(progress.history)
        if main:
            best = progress.best_bias if progress.best else None
            with _holding(adapter, progress.best or ema.shadow_params):
                trained = {"updates": progress.update, "validation_bias": best}
                adapter.save(folder / "patch.safetensors", trained | record | {"identity": identity})
            write_atomically(folder / "history.csv", lambda path: history.to_csv(path, index=False))
            (folder / "checkpoint.pt").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return history


def _optimizer(parameters: Sequence[torch.Tensor], settings: Finetune) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def _schedule(optimizer: torch.optim.Optimizer, settings: Finetune) -> LRScheduler:
    if settings.schedule == "steps":  # Bias Neurons: after every 10 of 50 epochs
        return StepLR(optimizer, max(1, settings.updates // 5), gamma=0.2)
    return get_scheduler(settings.schedule, optimizer, num_warmup_steps=0, num_training_steps=settings.updates)


@contextmanager
def _attached(adapter: Adapter) -> Iterator[None]:
    adapter.attach()
    try:
        yield
    finally:
        adapter.detach()


@contextmanager
def _holding(adapter: Adapter, values: Sequence[torch.Tensor]) -> Iterator[None]:
    """The adapter with other values of its parameters, then with its own again."""
    own = [parameter.detach().clone() for parameter in adapter.parameters()]
    _copy(adapter.parameters(), values)
    adapter.update()
    try:
        yield
    finally:
        _copy(adapter.parameters(), own)
        adapter.update()


@torch.no_grad()
def _copy(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def save_checkpoint(path: Path, identity: dict, progress: Progress, parameters, buffers, optimizer, schedule, ema):
    """Write all that a resumed run needs; the previous checkpoint stays until the new one is whole."""
    saved = {
        "identity": json.dumps(identity),
        "progress": vars(progress),
        "parameters": [parameter.detach() for parameter in parameters],
        "buffers": list(buffers),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
    }
    write_atomically(path, lambda temporary: torch.save(saved, temporary))


def _resume(path: Path, identity: dict, parameters, buffers, optimizer, schedule, ema: EMAModel) -> Progress:
    """Restore a killed run; a fresh start without a checkpoint. `UserError` if it is damaged or of another run."""
    if not path.exists():
        return Progress()
    try:
        saved = torch.load(path, map_location=parameters[0].device, weights_only=True)
        refuse_another(json.loads(saved["identity"]), identity, f"checkpoint {path}", ANOTHER)
        progress = Progress(**saved["progress"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        ema.load_state_dict(saved["ema"])
        _copy(parameters, saved["parameters"])
        _copy(buffers, saved["buffers"])
    except UserError:
        raise
    except Exception as error:  # a foreign or damaged file fails in many ways
        raise UserError(f"checkpoint {path} does not fit this run ({error}): delete it to start again") from error
    return progress
