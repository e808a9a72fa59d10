"""Files of bias neurons: a patch with its header, or a whole fine-tuned U-Net, and loading one onto its base model."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fairnb.adapters.bias_neurons import KIND, BiasNeurons
from fairnb.diffusion.fingerprint import ROUNDED, fingerprint, sketch
from fairnb.errors import UserError


@dataclass(frozen=True)
class Header:
    """The header of a patch.

    `base` is the fingerprint of the base weights in `dtype`, `sketch` their sketch (empty in files of older versions);
    `neurons` maps tensor names to the number of changed weights.
    """

    base: str
    dtype: str
    sketch: dict[str, float]
    acts_from: int
    record: dict
    neurons: dict[str, int]

    def fits(self, unet: torch.nn.Module) -> bool:
        """Whether `unet` is the base: bitwise in the same dtype, up to rounding in another dtype."""
        if self.base == fingerprint(unet):
            return True
        if not self.sketch or self.dtype == str(unet.dtype):
            return False
        own = sketch(unet)
        return own.keys() == self.sketch.keys() and all(abs(own[n] - self.sketch[n]) < ROUNDED for n in own)


def read_header(path: str | Path) -> Header:
    """Read a patch's header without a model; `UserError` if the file is damaged or not a patch."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise UserError(f"patch {path} cannot be read ({error}): train or copy it again") from error
    if about.get("kind") != KIND:
        raise UserError(f"{path} is no patch of bias neurons: give a file that BiasNeurons.save wrote")
    try:
        record, acts_from, base = json.loads(about["record"]), int(about.get("acts_from", 0)), about["base"]
        numbers = {name: float(value) for name, value in json.loads(about.get("sketch", "{}")).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the header of patch {path} is damaged ({error}): train or copy it again") from error
    names = [name.removesuffix(".values") for name in shapes if name.endswith(".values")]
    paired = {f"{name}.{part}" for name in names for part in ("indices", "values")}
    if not isinstance(record, dict) or paired != set(shapes) or not names:
        raise UserError(f"patch {path} lacks a part: train or copy it again")
    if any(len(shapes[f"{n}.values"]) != 1 or shapes[f"{n}.values"] != shapes[f"{n}.indices"] for n in names):
        raise UserError(f"patch {path} holds values that do not match their indices: train or copy it again")
    counts = {name: shapes[f"{name}.values"][0] for name in names}
    return Header(base, about.get("dtype", ""), numbers, acts_from, record, counts)


def load_patch(path: str | Path, pipe: StableDiffusionPipeline) -> BiasNeurons:
    """Read a patch for the model in `pipe` without applying it; its record is in `.metadata`.

    `UserError` if the file is damaged, not a patch, or made for other base weights.
    """
    header = read_header(path)
    if not header.fits(pipe.unet):
        if not header.sketch and pipe.dtype != torch.float32:
            raise UserError(
                f"patch {path} is of an older version, which knows its base in float32 alone: load the model with "
                "dtype float32, or train the patch again"
            )
        raise UserError(
            f"patch {path} was made for other base weights: load that model, without another patch on it, and a "
            "variant fp16 of it with dtype float16"
        )
    tensors = load_file(path)
    neurons = {name: tensors[f"{name}.indices"].long() for name in header.neurons}
    adapter = BiasNeurons(pipe.unet, neurons, header.acts_from)
    with torch.no_grad():
        for name, delta in adapter._deltas.items():
            delta.copy_(tensors[f"{name}.values"])
    adapter.metadata = header.record
    return adapter


def neurons_of_unet(path: str | Path, tensors: dict[str, torch.Tensor], unet: torch.nn.Module) -> BiasNeurons:
    """The change of a whole fine-tuned U-Net (Bias Neurons saves `unet_*.pth`): all weights that differ from `unet`.

    They are compared in the file's precision. `UserError` if it is the U-Net of another model, or this one.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}  # of DistributedDataParallel
    weights = dict(unet.named_parameters())
    for name in sorted(weights.keys() | tensors.keys()):
        shapes = [tuple(each[name].shape) if name in each else "missing" for each in (tensors, weights)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} is the U-Net of another model: {name} is {shapes[0]} there and {shapes[1]} in this one"
            )
    neurons, values = {}, []
    for name, weight in weights.items():
        theirs = tensors[name].to(weight.device).flatten()
        own = weight.detach().flatten().to(theirs.dtype)
        if len(at := (theirs != own).nonzero().flatten()):
            neurons[name] = at
            values.append(theirs[at].float() - own[at].float())
    if not neurons:
        raise UserError(f"{path} holds the weights of this very U-Net, so it changes nothing: give the fine-tuned one")
    adapter = BiasNeurons(unet, neurons)
    with torch.no_grad():
        for delta, value in zip(adapter.parameters(), values, strict=True):
            delta.copy_(value)
    return adapter
