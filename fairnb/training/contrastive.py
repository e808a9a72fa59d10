"""Contrastive fine-tuning on triplets (Debiasing Text-to-Image Models via Data Augmentation and Contrastive Learning).

The paper draws noise and timestep independently for each member of a triplet, so its vision term compares noises rather
than images; `shared` draws them once per triplet. The paper's loss never shows the model another class under a caption
that names none. The loss "denoise" does only that: the augmented data without the contrast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline

from fairnb.adapters.protocol import Adapter, adapter_identity
from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.pipeline import tokenize
from fairnb.identity import content
from fairnb.measure.images import load_image
from fairnb.profiles import WITHOUT_EFFECT, Finetune
from fairnb.seeds import stable_seed
from fairnb.training.loop import train_adapter
from fairnb.training.triplets import ROLES, read_triplets


@dataclass
class ContrastiveRun:
    """One run: the triplets in `folder`, the adapter they train, and the settings (`images` triplets per update).

    `loss` is the paper's ("contrastive", see `contrastive_loss`) or "denoise": the mean squared error of the predicted
    noise of anchor and positive, both under the anchor's caption, so that the model learns both classes for it.
    `stages` lists the parts to train, one stage after the other for equally many updates: (("text_encoder",),
    ("unet",), ("text_encoder", "unet")) is the paper's sequence. Several stages need a LoRA of both parts.
    """

    pipe: StableDiffusionPipeline
    adapter: Adapter
    folder: Path
    settings: Finetune
    seed: int
    loss: Literal["contrastive", "denoise"] = "contrastive"
    shared: bool = True
    stages: Sequence[Sequence[str]] = (("text_encoder", "unet"),)

    @cached_property
    def triplets(self) -> pd.DataFrame:
        """The metadata with one row per triplet and, for each role, columns file_name and text."""
        return read_triplets(self.folder).pivot(index="triplet", columns="role", values=["file_name", "text"])

    @cached_property
    @torch.no_grad()
    def latents(self) -> dict[str, torch.Tensor]:
        """The VAE latents [N, C, h, w] of all images of each role."""
        encoded = {}
        for role in ROLES:
            parts = []
            for name in self.triplets.file_name[role]:
                picture = load_image(self.folder / name)[None].to(self.pipe.device, self.pipe.vae.dtype)
                parts.append(self.pipe.vae.encode(picture).latent_dist.mean.float())
            encoded[role] = torch.cat(parts) * self.pipe.vae.config.scaling_factor
        return encoded

    def train(self, validate: Callable[[], float] | None, folder: str | Path, record: dict) -> pd.DataFrame:
        """Train the adapter (see `loop.train_adapter`); `validate()` returns the bias of the current model."""
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        identity = {
            "settings": self.settings.model_dump(exclude=set(WITHOUT_EFFECT)),
            "seed": self.seed,
            "loss": self.loss,
            "shared": self.shared,
            "stages": self.stages,
            "triplets": content(self.folder),
            "adapter": adapter_identity(self.adapter),
            "model": model_identity(self.pipe),
        }
        return train_adapter(
            self.adapter, self.settings, folder, self.gradient, validate, identity, record, accelerator
        )

    def gradient(self, number: int) -> dict:
        """Put the gradient of update `number` into the adapter's parameters; returns its losses."""
        rng = np.random.default_rng(stable_seed(self.seed, "triplets", number))
        count = min(self.settings.images, len(self.triplets))
        rows = np.sort(rng.choice(len(self.triplets), count, replace=False))
        chosen = self.triplets.iloc[rows]
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "noise", number))
        scheduler = DDPMScheduler.from_config(self.pipe.scheduler.config)  # most samplers lack get_velocity
        predicted, texts, wanted = {}, {}, {}
        alone = self.loss == "denoise"
        for role in ROLES[:2] if alone else ROLES:
            latents = self.latents[role][rows]
            if role == ROLES[0] or not self.shared:
                added = torch.randn(latents.shape, generator=generator).to(latents)
                at = torch.randint(scheduler.config.num_train_timesteps, (count,), generator=generator).to(
                    latents.device
                )
            noisy = scheduler.add_noise(latents, added, at)
            states, texts[role] = self._texts(chosen.text[ROLES[0] if alone else role].tolist())
            predicted[role] = self.pipe.unet(noisy.to(states.dtype), at, encoder_hidden_states=states).sample.float()
            velocity = scheduler.config.prediction_type == "v_prediction"
            wanted[role] = scheduler.get_velocity(latents, added, at) if velocity else added
        if alone:
            errors = [(predicted[role] - wanted[role]).square().mean() for role in predicted]
            losses = {"loss": sum(errors) / len(errors)}
        else:
            losses = contrastive_loss(predicted, wanted["positive"], texts)
        losses["loss"].backward()
        self._freeze_other_parts(number)
        return {name: value.item() for name, value in losses.items()} | {"prompt": chosen.text["anchor"].iloc[0]}

    def _texts(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text encoder states [N, L, D] and pooled features [N, D]."""
        out = self.pipe.text_encoder(tokenize(self.pipe, captions))
        return out.last_hidden_state, out.pooler_output

    def _freeze_other_parts(self, number: int) -> None:
        """Drop the gradients of the parts that this stage does not train."""
        if len(self.stages) == 1:
            return
        stage = self.stages[number * len(self.stages) // self.settings.updates]
        for name in self.adapter.shapes():
            if name.partition(".")[0] not in stage:
                for factor in self.adapter.factors(name):
                    factor.grad = None


def contrastive_loss(
    predicted: dict[str, torch.Tensor],
    added: torch.Tensor,
    texts: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The paper's loss of a batch of triplets, with its three terms.

    `predicted` holds the predicted noise [N, C, h, w] of each role, `added` the noise of the positives, `texts` the
    text encoder's features [N, D] of each role::

        denoise   MSE(predicted positive, added)
        text      mean (cos(anchor, positive) - cos(anchor, negative))^2
        vision    (1 - MSE(positive, negative))^2 + MSE(positive, anchor)^2

    so that a person of other classes is as close to the anchor's text as one of the same classes, and the positive's
    noise is closer to the anchor's than to the negative's.
    """
    denoise = (predicted["positive"] - added).square().mean()
    cosine = torch.nn.functional.cosine_similarity
    near, far = (cosine(texts["anchor"], texts[role], dim=-1) for role in ("positive", "negative"))
    text = (near - far).square().mean()
    apart = (predicted["positive"] - predicted["negative"]).square().mean()
    together = (predicted["positive"] - predicted["anchor"]).square().mean()
    vision = (1 - apart).square() + together.square()
    total = 0.5 * denoise + 0.1 * text + 0.4 * vision
    return {"loss": total, "denoise": denoise, "text": text, "vision": vision}
