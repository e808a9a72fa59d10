"""What a picture shows, as CLIP sees it: features of images and texts, and how far a picture moved."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate, normalize
from transformers import CLIPModel, CLIPTokenizer

from fairnb.errors import UserError

# The statistics that OpenAI's CLIP was trained with; mini-clip uses the same so that one line serves both.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip(torch.nn.Module):
    """A `CLIPModel` and its tokenizer: normalised features [N, D], so that a dot product is a cosine."""

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
        """Features of texts, cut to the tokenizer's length."""
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.mean.device)
        pooled = self.model.text_model(input_ids=tokens.input_ids).pooler_output
        return normalize(self.model.text_projection(pooled), dim=-1)


def load_clip(path: str | Path, device: torch.device | str = "cpu") -> Clip:
    """Load a CLIP folder (model and tokenizer), frozen; `UserError` when there is none."""
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"no CLIP model at {path}: give a folder with config.json, model.safetensors and a tokenizer")
    model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
    return Clip(model, tokenizer).eval().requires_grad_(False).to(device)
