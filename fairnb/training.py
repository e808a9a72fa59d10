"""The one loop of everything that trains an adapter: what an update is, the objective says (`finetune`)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from fairnb.adapters import Adapter
from fairnb.checkpoint import average, holding, remember, resume, save_checkpoint
from fairnb.errors import UserError
from fairnb.profiles import Finetune
from fairnb.records import write_atomically


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
