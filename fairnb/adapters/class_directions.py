"""Class directions: a class for each image, set where the prompt enters the U-Net; no weight changes.

At every cross-attention layer and timestep the mean outputs for prompts that name a class ("a photo of a female pilot")
differ between classes along few directions, measured over all train occupations. While sampling, each image is drawn a
class from the target shares, and the mean of each output over its positions is set, along these directions, to the
value that prompts naming this class have: what the occupation says about the class is replaced, at natural strength,
and everything else stays (as EquiSteer, 2026, does; RespoDiff, 2025, adds a learnt direction to h). A gate leaves
prompts alone that name a class themselves or show no person (`prompt_gate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from fairnb.adapters.class_steering import ClassSteering, read_steering
from fairnb.adapters.h_space import UNetCall, on_outputs
from fairnb.adapters.prompt_gate import PromptGate
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.profiles import Sampling
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.templates import name_class

KIND = "fairnb class directions 1"
KEPT = 10  # timesteps, at most; those between use the nearest


@dataclass
class Directions:
    """The directions of an attribute with K classes at T timesteps (descending), by the name of the layer.

    `basis` [T, K-1, C]: orthonormal directions in the layer's output, and `values` [T, K, K-1]: where the classes lie.
    """

    attribute: str
    timesteps: torch.Tensor
    basis: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]

    def nearest(self, timestep: float) -> int:
        """The position of the nearest timestep."""
        return int((self.timesteps - timestep).abs().argmin())


@torch.no_grad()
def directions_from_prompts(
    pipe: StableDiffusionPipeline,
    attribute: str,
    prompts: Sequence[str],
    *,
    images: int,
    sampling: Sampling,
    seed: int,
) -> Directions:
    """Measure the directions of an attribute on `images` images of each prompt and class.

    Only means are kept, so memory does not grow with the number of images.
    """
    sums: dict[float, dict[str, torch.Tensor]] = {}
    layers, current = cross_attention(pipe), 0
    words = get_attribute(attribute).words

    def add(output: torch.Tensor, call: UNetCall, name: str) -> None:
        mean = output[call.prompt].float().mean(1).sum(0)
        of = sums.setdefault(call.timestep, {}).setdefault(name, mean.new_zeros(len(words), len(mean)))
        of[current] += mean

    hooks = on_outputs(pipe, layers, add)
    try:
        for number, word in enumerate(words):
            current = number  # which `add` reads
            asked = [name_class(prompt, word) for prompt in prompts for _ in range(images)]
            start = torch.cat([noise(pipe, prompt, range(images), seed) for prompt in prompts])
            for at in tqdm(range(0, len(asked), sampling.batch), f"directions of {attribute}: {word}"):
                rows = slice(at, at + sampling.batch)
                how = {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
                sample(pipe, asked[rows], start[rows], **how)
    finally:
        for hook in hooks:
            hook.remove()
    timesteps = sorted(sums, reverse=True)
    kept = [timesteps[round(at)] for at in torch.linspace(0, len(timesteps) - 1, min(KEPT, len(timesteps))).tolist()]
    basis, values = {}, {}
    for name in layers:
        means = torch.stack([sums[at][name] for at in kept]) / (len(prompts) * images)  # [T, K, C]
        middle = means.mean(1, keepdim=True)
        basis[name] = torch.linalg.svd(means - middle, full_matrices=False).Vh[:, : len(words) - 1]
        values[name] = means @ basis[name].mT
    return Directions(attribute, torch.tensor(kept, device=pipe.device), basis, values)


def cross_attention(pipe: StableDiffusionPipeline) -> dict[str, torch.nn.Module]:
    """The U-Net's cross-attention layers by name."""
    return {name: module for name, module in pipe.unet.named_modules() if name.endswith("attn2")}


class ClassDirections(ClassSteering):
    """Class directions with target shares and a gate, applied to a pipeline like any adapter.

    `UserError` as of `ClassSteering`, and for another model.
    """

    title, kind = "class directions", KIND

    def __init__(self, directions: Sequence[Directions], shares: Mapping[str, Sequence[float]], gate: PromptGate):
        known = {each.attribute: each for each in directions}
        super().__init__(known, shares, gate)
        self.directions = {name: known[name] for name in shares}

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Steer the pipeline; 1 replaces the class, 0 is bitwise the plain pipeline."""
        self.remove(pipe)
        layers = cross_attention(pipe)
        for each in self.directions.values():
            widths = {name: module.to_out[0].out_features for name, module in layers.items()}
            if widths != {name: basis.shape[2] for name, basis in each.basis.items()}:
                raise UserError(
                    f"the directions of {each.attribute} were measured on another model: measure them again"
                )
        if not strength:
            return
        pipe.applied = f"class directions {self.digest()} x {strength:g}"
        chosen: dict[str, torch.Tensor] = {}

        def begin(call: UNetCall) -> None:
            chosen.update(self.drawn(call))

        def steer(output: torch.Tensor, call: UNetCall, layer: str) -> torch.Tensor | None:
            rows = output[call.prompt].float()
            for name, each in self.directions.items():
                at = each.nearest(call.timestep)
                basis, values = each.basis[layer][at], each.values[layer][at]
                missing = values[chosen[name].clamp(min=0)] - rows.mean(1) @ basis.T
                rows = rows + strength * ((chosen[name] >= 0)[:, None] * missing @ basis)[:, None]
            output = output.clone()
            output[call.prompt] = rows.to(output.dtype)
            return output

        self._hooks = on_outputs(pipe, layers, steer, begin)

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """Timesteps, directions and values, the latter two in float16 (SD 1.5, two classes, 10 timesteps: .25 MB)."""
        tensors = {}
        for name, each in self.directions.items():
            tensors[f"{name}.timesteps"] = each.timesteps
            for layer in each.basis:
                tensors[f"{name}.basis.{layer}"] = each.basis[layer].half()
                tensors[f"{name}.values.{layer}"] = each.values[layer].half()
        return tensors


def load_class_directions(path: str | Path, device: torch.device | str) -> ClassDirections:
    """Read a file of `ClassDirections.save`; `UserError` if it is damaged."""
    try:
        tensors, shares, gate, record = read_steering(path, device)
        directions = []
        for name in shares:
            parts = {
                part: {
                    key.removeprefix(f"{name}.{part}."): tensor.float()
                    for key, tensor in tensors.items()
                    if key.startswith(f"{name}.{part}.")
                }
                for part in ("basis", "values")
            }
            directions.append(Directions(name, tensors[f"{name}.timesteps"], **parts))
        made = ClassDirections(directions, shares, gate)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the class directions {path} are damaged ({error}): measure them again") from error
    made.metadata = record
    return made
