"""CLIP and DINO: features of images and texts, whose dot products are cosines."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate, normalize
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from fairnb.diffusion.pipeline import explain_missing
from fairnb.errors import UserError

# The image statistics of OpenAI's CLIP, which mini-clip uses, too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip(torch.nn.Module):
    """A `CLIPModel` and its tokenizer, giving features [N, D] of norm 1."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images [N, 3, H, W] in [-1, 1]; differentiable."""
        size = self.model.config.vision_config.image_size
        if images.shape[-1] != size or images.shape[-2] != size:
            images = interpolate(images, (size, size), mode="bicubic", antialias=True)
        pixels = ((images + 1) / 2 - self.mean) / self.std
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """Features of texts, truncated to the tokenizer's length."""
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.mean.device)
        pooled = self.model.text_model(input_ids=tokens.input_ids).pooler_output
        return normalize(self.model.text_projection(pooled), dim=-1)


def load_trained(kind, what: str, model: str | Path, *, unused: str | None = None, **where):
    """A transformers model of class `kind`, from a folder or hub id; `UserError` if that fails.

    Weights that the files lack (but for the part `unused`) would be drawn at random with no more than a warning, as the
    head of a backbone that was never fine-tuned: they are refused.
    """
    try:
        network, report = kind.from_pretrained(
            model, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **where
        )
    except Exception as error:  # transformers raises a different type for each broken file
        raise UserError(explain_missing(what, model, error)) from error
    lacking = [name for name in sorted(map(str, report["missing_keys"])) if name.split(".")[0] != unused]
    if lacking:
        raise UserError(f"the {what} {model} is not trained: its files hold no {lacking[0]}; name another")
    return network


def load_clip(model: str | Path, device: torch.device | str = "cpu", revision: str | None = None) -> Clip:
    """Load CLIP (model and tokenizer) from a folder or hub id, frozen; `UserError` if that fails."""
    where = {"revision": revision, "local_files_only": Path(model).exists()}
    network = load_trained(CLIPModel, "CLIP model", model, **where)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(model, **where)
    except Exception as error:  # transformers raises a different type for each broken file
        raise UserError(explain_missing("CLIP model", model, error)) from error
    return Clip(network, tokenizer).eval().requires_grad_(False).to(device)


# The image statistics of DINO and DINOv2.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Dino(torch.nn.Module):
    """A DINO or DINOv2 of transformers, giving features [N, D] of norm 1 for images [N, 3, H, W] in [-1, 1].

    It represents shapes and parts, CLIP what a caption would name; FFD uses both.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Features of the class token; differentiable. Images are resized to 16 x 16 patches."""
        size = 16 * self.model.config.patch_size
        if images.shape[-1] != size or images.shape[-2] != size:
            images = interpolate(images, (size, size), mode="bicubic", antialias=True)
        pixels = ((images + 1) / 2 - self.mean) / self.std
        return normalize(self.model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)


def load_dino(model: str | Path, device: torch.device | str = "cpu", revision: str | None = None) -> Dino:
    """Load DINO(v2) from a folder or hub id such as facebook/dinov2-base, frozen; `UserError` if that fails."""
    where = {"revision": revision, "local_files_only": Path(model).exists()}
    network = load_trained(AutoModel, "DINO model", model, unused="pooler", **where)
    return Dino(network).eval().requires_grad_(False).to(device)
