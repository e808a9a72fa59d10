"""Locate bias neurons: the scalar weights of a U-Net that carry an attribute (Bias Neurons).

Every occupation gives one prompt pair of each of three families. For each pair we keep the weights with the largest
gradient of the difference between the two noise predictions, and for each family those that are kept for most
occupations. Bias neurons are (bias and have_bias) minus no_bias.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.neuron_sets import NeuronSet, count_neurons, difference, flat_offsets, intersection
from fairnb.diffusion.pipeline import check_words, encode_prompts
from fairnb.diffusion.sampling import fresh_scheduler, noise
from fairnb.errors import UserError
from fairnb.prompts.attributes import AGE, GENDER, Attribute
from fairnb.prompts.templates import photo_of
from fairnb.seeds import stable_seed

FAMILIES = ("bias", "have_bias", "no_bias")
LOCATE_STEPS = 20  # the schedule in which the published timestep 699 stands


@dataclass
class Located:
    """The bias neurons, how often each weight was kept per family (int16, shaped like the weights), and the pairs."""

    neurons: NeuronSet
    counts: dict[str, dict[str, torch.Tensor]]
    pairs: pd.DataFrame
    settings: dict


def contrast_pairs(
    attribute: Attribute, occupations: Sequence[str], contents: Sequence[str], contexts: Sequence[str], seed: int
) -> pd.DataFrame:
    """Return one prompt pair per occupation and family, with the columns family, occupation, left and right.

    In *bias* only the attribute differs, in *have_bias* attribute and content, in *no_bias* only the content. For an
    attribute with more than two classes, two are drawn for each occupation.
    """
    if not occupations or not contents or len(set(contexts)) < 2:
        raise UserError("contrast pairs need at least one occupation, one content and two contexts: add them")
    other = GENDER if attribute.name == AGE.name else AGE
    rows = []
    for occupation in occupations:
        rng = random.Random(stable_seed(seed, attribute.name, occupation, bits=64))
        one, two = attribute.words if len(attribute.words) == 2 else rng.sample(attribute.words, 2)
        stranger = rng.choice([name for name in occupations if name != occupation] or [occupation])
        here, there = (f" {context}" for context in rng.sample(sorted(set(contexts)), 2))
        pairs = {
            "bias": (photo_of(f"{one} {occupation}"), photo_of(f"{two} {occupation}")),
            "have_bias": (photo_of(f"{one} {stranger}") + here, photo_of(f"{two} {occupation}") + there),
            "no_bias": (photo_of(f"{rng.choice(other.words)} {occupation}"), photo_of(rng.choice(list(contents)))),
        }
        rows += [(family, occupation, *pairs[family]) for family in FAMILIES]
    return pd.DataFrame(rows, columns=["family", "occupation", "left", "right"])


def locate(
    pipe: StableDiffusionPipeline,
    attribute: Attribute,
    occupations: Sequence[str],
    *,
    k: int,
    frequency: float,
    timestep: int,
    contents: Sequence[str],
    contexts: Sequence[str],
    seed: int,
    noises: str = "one",
    tensors: str = "",
    counted: Mapping[str, torch.Tensor] | None = None,
) -> Located:
    """Locate the bias neurons of an attribute: keep the `k` weights with the largest gradient of each pair, and count.

    The gradient is that of sum|eps(x, left) - eps(x, right)| at one noise x, shared by all pairs, and at the step of a
    20-step schedule closest to `timestep`. The published loop runs all 20 steps with classifier-free guidance at
    latents that never advance, and discards 19 of the gradients; guidance only scales the difference, so one pass gives
    the same set. A weight belongs to a family if it is in the top k for more than `frequency` of the occupations.

    Two choices are ours. With `noises` "each", every occupation has a noise of its own, so that the weights counted are
    those of many noises and not of one, at the same cost. `tensors` is a regular expression: the weights kept are of
    parameters in whose name it is found.

    Memory beside the U-Net: a few times 12 k bytes, one dense gradient tensor at a time, and 6 bytes per weight on the
    CPU for the counts; none of it if `counted` gives what `count_kept` of shards has counted. `UserError` if k exceeds
    the model.
    """
    where = {"timestep": timestep, "seed": seed, "noises": noises, "tensors": tensors}
    pairs = contrast_pairs(attribute, occupations, contents, contexts, seed)
    flat = count_kept(pipe, pairs, k=k, **where) if counted is None else counted
    counts = {family: _by_tensor(pipe.unet, values) for family, values in flat.items()}
    neurons = select(counts, frequency * len(occupations))
    settings = {
        "attribute": attribute.name,
        "k": k,
        "frequency": frequency,
        "timestep": int(_closest_step(pipe, timestep)),
        "noises": noises,
        "tensors": tensors,
        "occupations": list(occupations),
        "seed": seed,
        "found": count_neurons(neurons),
        "weights": sum(weight.numel() for weight in pipe.unet.parameters()),
    }
    return Located(neurons, counts, pairs, settings)


def count_kept(
    pipe: StableDiffusionPipeline, pairs: pd.DataFrame, *, k: int, timestep: int, seed: int, noises: str, tensors: str
) -> dict[str, torch.Tensor]:
    """For how many of the pairs (`contrast_pairs`) each weight is among the `k` with the largest gradient: per family
    int16 [number of weights], in the order of `flat_offsets`. See `locate`; sums over parts of the pairs are those of
    all."""
    total = sum(weight.numel() for weight in pipe.unet.parameters())
    there = sum(weight.numel() for name, weight in pipe.unet.named_parameters() if re.search(tensors, name))
    if not there:
        raise UserError(f"no tensor of the U-Net matches '{tensors}': change locate.tensors")
    if not 1 <= k <= there:
        among = f" in tensors that match '{tensors}'" if tensors else ""
        raise UserError(f"k = {k} weights cannot be kept of a U-Net with {there}{among}: use 1 to {there}")
    flat = {family: torch.zeros(total, dtype=torch.int16) for family in FAMILIES}
    top = _Top(k)
    for pair in _backward(pipe, pairs, timestep, seed, top.add, noises, tensors):
        flat[pair.family][top.take()] += 1
    return flat


def mean_gradient(
    pipe: StableDiffusionPipeline,
    attribute: Attribute,
    occupations: Sequence[str],
    *,
    timestep: int,
    contents: Sequence[str],
    contexts: Sequence[str],
    seed: int,
    noises: str = "one",
    tensors: str = "",
) -> torch.Tensor:
    """Mean |gradient| of every weight [number of weights] over the *bias* pairs of `locate`: no counts, no families.

    It is 0 for the parameters that `tensors` does not match.

    What the set algebra of Bias Neurons adds is the difference to the weights that are largest here.
    """
    pairs = contrast_pairs(attribute, occupations, contents, contexts, seed)
    pairs = pairs[pairs.family == "bias"]
    mean = torch.zeros(sum(weight.numel() for weight in pipe.unet.parameters()))

    def add(gradient: torch.Tensor, start: int) -> None:
        mean[start : start + gradient.numel()] += gradient.abs().flatten().float().cpu() / len(pairs)

    for _ in _backward(pipe, pairs, timestep, seed, add, noises, tensors):
        pass
    return mean


def _backward(
    pipe: StableDiffusionPipeline,
    pairs: pd.DataFrame,
    timestep: int,
    seed: int,
    collect: Callable[[torch.Tensor, int], None],
    noises: str,
    tensors: str,
) -> Iterator[NamedTuple]:
    """Give the gradient of each pair to `collect(gradient of a tensor, its start in the flat numbering)`, then yield
    the pair."""
    check_words(pipe, [*pairs.left, *pairs.right])
    if noises not in ("one", "each"):
        raise UserError(f"noises = {noises} is not known: use one or each")
    step = _closest_step(pipe, timestep)
    scheduler = fresh_scheduler(pipe, LOCATE_STEPS)
    with _gradients_to(pipe.unet, collect, tensors):
        for pair in pairs.itertuples():
            of = pair.occupation if noises == "each" else ""
            latents = noise(pipe, of, [0], seed).to(pipe.unet.dtype) * scheduler.init_noise_sigma
            latents = scheduler.scale_model_input(latents, step)
            with torch.no_grad():
                embeds = encode_prompts(pipe, [pair.left, pair.right])
            left, right = pipe.unet(torch.cat([latents] * 2), step, encoder_hidden_states=embeds).sample
            (left - right).abs().sum().backward()
            yield pair


def _closest_step(pipe: StableDiffusionPipeline, timestep: int) -> torch.Tensor:
    steps = fresh_scheduler(pipe, LOCATE_STEPS).timesteps
    return steps[(steps - timestep).abs().argmin()]


def select(counts: dict[str, dict[str, torch.Tensor]], least: float) -> NeuronSet:
    """Return (bias and have_bias) minus no_bias, where a family holds the weights kept for more than `least`
    occupations."""
    bias, have_bias, no_bias = (
        {name: (kept.flatten() > least).nonzero().flatten() for name, kept in counts[family].items()}
        for family in FAMILIES
    )
    return difference(intersection(bias, have_bias), no_bias)


class _Top:
    """The k largest |gradient| over all tensors added since the last `take`, in memory for about 3 k of them."""

    def __init__(self, k: int):
        self.k = k
        self.parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.held, self.least = 0, -1.0

    def add(self, gradient: torch.Tensor, start: int) -> None:
        values = gradient.abs().flatten()
        at = (values > self.least).nonzero().flatten()
        self.parts.append((values[at], at + start))
        self.held += len(at)
        if self.held > 3 * self.k:
            self._shrink()

    def take(self) -> torch.Tensor:
        """Return the flat indices over all weights, on the CPU, and start again."""
        self._shrink()
        indices = self.parts[0][1].cpu()
        self.parts, self.held, self.least = [], 0, -1.0
        return indices

    def _shrink(self) -> None:
        values, indices = (torch.cat(column) for column in zip(*self.parts, strict=True))
        values, at = values.topk(min(self.k, len(values)), sorted=False)
        self.parts, self.held, self.least = [(values, indices[at])], len(values), values.min().item()


@contextmanager
def _gradients_to(unet: torch.nn.Module, add: Callable[[torch.Tensor, int], None], tensors: str) -> Iterator[None]:
    """Within the context, give the gradient of each parameter that matches to `add` when it is complete, and free
    it."""
    offsets = flat_offsets(unet)
    before = {name: weight.requires_grad for name, weight in unet.named_parameters()}
    hooks = []
    for name, weight in unet.named_parameters():
        weight.requires_grad_(False)
        if not re.search(tensors, name):
            continue

        def collect(weight: torch.Tensor, start: int = offsets[name][0]) -> None:
            add(weight.grad, start)
            weight.grad = None

        hooks.append(weight.requires_grad_().register_post_accumulate_grad_hook(collect))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, weight in unet.named_parameters():
            weight.requires_grad_(before[name])


def _by_tensor(unet: torch.nn.Module, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        name: flat[start : start + size].view(unet.get_parameter(name).shape)
        for name, (start, size) in flat_offsets(unet).items()
    }
