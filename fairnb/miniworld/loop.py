"""One training loop for every model of the mini world: one-cycle AdamW, EMA, checkpoints, exact resume."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

CHECKPOINT_EVERY = 250


def one_cycle(step: int, steps: int, warmup: float = 0.05) -> float:
    """Learning-rate factor: a linear warm-up, then a cosine to zero."""
    start = max(1, int(warmup * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def train(
    name: str,
    modules: Iterable[torch.nn.Module],
    loss: Callable[[np.random.Generator, torch.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    ema: float = 0.0,
) -> list[float]:
    """Minimise `loss(numpy rng, torch generator)` over the modules' weights and leave the (averaged) weights in them.

    Each step's randomness comes from (seed, step) alone, so a run that was killed and resumes from its last
    checkpoint ends with the same weights. Returns the loss of every step of this process.
    """
    modules = list(modules)
    for module in modules:
        module.train().requires_grad_(True)
    weights = [weight for module in modules for weight in module.parameters()]
    state = {f"{i}.{key}": value for i, module in enumerate(modules) for key, value in module.state_dict().items()}
    averaged = [weight.detach().clone() for weight in weights] if ema else []
    optimizer = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    checkpoint = folder / f"{name}.ckpt"
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for key, value in state.items():
                value.copy_(saved["state"][key])
            for mine, value in zip(averaged, saved["averaged"], strict=True):
                mine.copy_(value)
    losses = []
    progress = tqdm(range(first, steps), name, steps, initial=first, mininterval=10)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * one_cycle(step, steps)
        value = loss(np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step))
        if not torch.isfinite(value):
            raise FloatingPointError(f"{name}: the loss is {value.item()} at step {step}")
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if ema:
            # A young average forgets faster, or it would remember the random start.
            torch._foreach_lerp_(averaged, [w.detach() for w in weights], 1 - min(ema, (1 + step) / (10 + step)))
        losses.append(value.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < steps:
            saved = {"step": step + 1, "optimizer": optimizer.state_dict(), "state": state, "averaged": averaged}
            torch.save(saved, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
    with torch.no_grad():
        for weight, value in zip(weights, averaged, strict=False):
            weight.copy_(value)
    for module in modules:
        module.eval().requires_grad_(False)
    return losses


def keep(path: Path, module: torch.nn.Module, make: Callable[[], object]) -> torch.nn.Module:
    """`module` with the weights at `path`, which `make()` trains first if they are not there yet."""
    if path.exists():
        module.load_state_dict(load_file(path))
        return module.eval().requires_grad_(False)
    make()
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, part)
    part.rename(path)
    return module
