"""CLIP's vision encoder with a linear head for each attribute, in one file of weights and without a configuration.

So syntheticbot/clip-face-attribute-classifier is stored, by its card: age, gender and race of FairFace. The file's
tensors are those of the encoder and `<attribute>_head`; the sizes are read off them.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils import cached_file

from fairnb.diffusion.pipeline import may_be_hub_id
from fairnb.errors import UserError

# What the outputs of such a head mean, by their number: the card sorts the names.
LABELS = {
    "age": ["0-2", "10-19", "20-29", "3-9", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    "gender": ["Female", "Male"],
    "race": ["Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White"],
}
HEAD = re.compile(r"(\w+)_head\.weight")
ENCODER = "vision_model."  # once or, where a CLIPVisionModel was a part of the module, twice
HEAD_WIDTH = 64  # of an attention head of every CLIP


class ClipHeads(torch.nn.Module):
    """Logits [N, C] of the heads of `attributes` beside each other, for pixels [N, 3, H, W]."""

    def __init__(self, encoder: CLIPVisionModel, heads: dict[str, torch.nn.Linear]):
        super().__init__()
        self.encoder = encoder
        self.heads = torch.nn.ModuleDict(heads)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pooled = self.encoder(pixel_values=pixels).pooler_output
        return torch.cat([head(pooled) for head in self.heads.values()], 1)

    def labels(self) -> dict[int, str]:
        """Column -> label; `UserError` for a head whose outputs are not FairFace's."""
        names = []
        for attribute, head in self.heads.items():
            known = LABELS.get(attribute, [])
            if len(known) != head.out_features:
                raise UserError(
                    f"a head for {attribute} with {head.out_features} outputs is unknown: name another model"
                )
            names += known
        return dict(enumerate(names))


def find_clip_heads(model: str | Path, revision: str | None = None) -> Path | None:
    """The file of weights of a model of this kind, or None if it is of another."""
    path = Path(model, "model.safetensors")
    if not Path(model).exists() and may_be_hub_id(model):
        with suppress(Exception):  # no network, no such file: the loader of other kinds says so
            path = Path(cached_file(str(model), path.name, revision=revision))
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError):
        return None  # the loader of other kinds says what is wrong
    return path if any(map(HEAD.fullmatch, names)) else None


def load_clip_heads(path: Path, attributes: Sequence[str]) -> ClipHeads:
    """Load the encoder and the heads of some attributes; `UserError` if one is missing or the file is damaged."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again") from error
    there = [found[1] for name in tensors if (found := HEAD.fullmatch(name))]
    if missing := [name for name in attributes if name not in there]:
        raise UserError(f"{path} has no head for '{missing[0]}': it has {', '.join(there)}")
    heads = {}
    for name in attributes:
        weight, bias = tensors[f"{name}_head.weight"], tensors[f"{name}_head.bias"]
        heads[name] = torch.nn.Linear(weight.shape[1], weight.shape[0])
        heads[name].load_state_dict({"weight": weight, "bias": bias})
    stored = {_bare(name): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
    try:
        encoder = CLIPVisionModel(_config(stored))
        encoder.load_state_dict({name: stored[_bare(name)] for name in encoder.state_dict() if _bare(name) in stored})
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} is no whole vision encoder of CLIP ({str(error).splitlines()[0]})") from error
    return ClipHeads(encoder, heads)


def _bare(name: str) -> str:
    while name.startswith(ENCODER):
        name = name.removeprefix(ENCODER)
    return name


def _config(stored: dict[str, torch.Tensor]) -> CLIPVisionConfig:
    """The sizes of an encoder, from those of its tensors."""
    layers = [int(found[1]) for name in stored if (found := re.match(r"encoder\.layers\.(\d+)\.", name))]
    width, _, patch, _ = stored["embeddings.patch_embedding.weight"].shape
    places = stored["embeddings.position_embedding.weight"].shape[0] - 1  # without the class token
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=stored["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        patch_size=patch,
        image_size=patch * round(places**0.5),
    )
