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
from torch.utils.checkpoint import checkpoint

from fairnb.adapters.full import FullWeights
from fairnb.adapters.lora import LoRA
from fairnb.adapters.protocol import adapter_identity
from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.pipeline import encode_prompts, image_size, processes
from fairnb.identity import content
from fairnb.measure.images import fit_image, load_image
from fairnb.profiles import WITHOUT_EFFECT, Finetune
from fairnb.seeds import stable_seed
from fairnb.training.loop import train_adapter
from fairnb.training.triplets import ROLES, read_triplets

BOTH = ("text_encoder", "unet")
# The terms of the published loss by the parts that a stage trains.
WEIGHTS = {
    BOTH: {"denoise": 0.5, "text": 0.1, "vision": 0.4},
    ("text_encoder",): {"text": 0.1},
    ("unet",): {"vision": 1.0},
}


@dataclass
class ContrastiveRun:
    """One run: the triplets in `folder`, the adapter they train, and the settings (`images` triplets per update).

    `loss` is the paper's ("contrastive", see `contrastive_loss`) or "denoise": the mean squared error of the predicted
    noise of anchor and positive, both under the anchor's caption, so that the model learns both classes for it.
    `stages` lists the parts to train, one stage after the other for equally many updates: (("text_encoder",),
    ("unet",), ("text_encoder", "unet")) is the paper's sequence; parts that the adapter does not change do not count.
    `perturbation` adds so much other noise to the noise of the images, but not to the target (the paper: .1), `flips`
    mirrors half of the images. Images of any size are cut and resized to the model's.
    """

    pipe: StableDiffusionPipeline
    adapter: LoRA | FullWeights
    folder: Path
    settings: Finetune
    seed: int
    loss: Literal["contrastive", "denoise"] = "contrastive"
    shared: bool = True
    perturbation: float = 0.0
    flips: bool = False
    stages: Sequence[Sequence[str]] = (("text_encoder", "unet"),)

    @cached_property
    def triplets(self) -> pd.DataFrame:
        """The metadata with one row per triplet and, for each role, columns file_name and text."""
        return read_triplets(self.folder).pivot(index="triplet", columns="role", values=["file_name", "text"])

    @cached_property
    def latents(self) -> dict[str, torch.Tensor]:
        """The VAE latents [N, C, h, w] of all images of each role."""
        return self._encoded(mirrored=False)

    @cached_property
    def mirrored(self) -> dict[str, torch.Tensor]:
        """The latents of the mirrored images: not the mirrored latents, since the VAE is not symmetric."""
        return self._encoded(mirrored=True)

    @torch.no_grad()
    def _encoded(self, mirrored: bool) -> dict[str, torch.Tensor]:
        encoded, size = {}, image_size(self.pipe)
        for role in ROLES:
            parts = []
            for name in self.triplets.file_name[role]:
                picture = fit_image(load_image(self.folder / name), size)[None]
                picture = (picture.flip(-1) if mirrored else picture).to(self.pipe.device, self.pipe.vae.dtype)
                parts.append(self.pipe.vae.encode(picture).latent_dist.mean.float())
            encoded[role] = torch.cat(parts) * self.pipe.vae.config.scaling_factor
        return encoded

    def train(self, validate: Callable[[], float] | None, folder: str | Path, record: dict) -> pd.DataFrame:
        """Train the adapter (see `loop.train_adapter`); `validate()` returns the bias of the current model."""
        processes()  # which wait for each other as long as it takes
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        identity = {
            "settings": self.settings.model_dump(exclude=set(WITHOUT_EFFECT)),
            "seed": self.seed,
            "loss": self.loss,
            "shared": self.shared,
            "perturbation": self.perturbation,
            "flips": self.flips,
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
        chosen, parts = self.triplets.iloc[rows], self.stage(number)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "noise", number))
        scheduler = DDPMScheduler.from_config(self.pipe.scheduler.config)  # most samplers lack get_velocity
        predicted, texts, wanted = {}, {}, {}
        alone = self.loss == "denoise"
        for role in ROLES[:2] if alone else ROLES:
            with torch.set_grad_enabled("text_encoder" in parts):
                captions = chosen.text[ROLES[0] if alone else role].tolist()
                texts[role] = states = encode_prompts(self.pipe, captions)
            if not alone and parts == ("text_encoder",):
                continue  # its loss looks at no image
            latents = self.latents[role][rows]
            if role == ROLES[0] or not self.shared:
                added = torch.randn(latents.shape, generator=generator).to(latents)
                at = torch.randint(scheduler.config.num_train_timesteps, (count,), generator=generator).to(
                    latents.device
                )
                other = torch.randn(latents.shape, generator=generator).to(latents) if self.perturbation else 0.0
                flipped = torch.from_numpy(rng.random(count) < 0.5) if self.flips else None
            if flipped is not None:
                latents = latents.where(~flipped.to(latents.device)[:, None, None, None], self.mirrored[role][rows])
            noisy = scheduler.add_noise(latents, added + self.perturbation * other, at)
            predicted[role] = self._predicted(noisy.to(states.dtype), at, states)
            velocity = scheduler.config.prediction_type == "v_prediction"
            wanted[role] = scheduler.get_velocity(latents, added, at) if velocity else added
        if alone:
            errors = [(predicted[role] - wanted[role]).square().mean() for role in predicted]
            losses = {"loss": sum(errors) / len(errors)}
        else:
            losses = contrastive_loss(predicted, wanted.get("positive"), texts, parts)
        losses["loss"].backward()
        for part in set(self.adapter.parts) - set(parts):
            for parameter in self.adapter.parameters_of(part):
                parameter.grad = None
        return {name: value.item() for name, value in losses.items()} | {"prompt": chosen.text["anchor"].iloc[0]}

    def _predicted(self, noisy: torch.Tensor, at: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The U-Net's predictions [N, C, h, w]; activations of no more than `finetune.part` images are kept at a time.

        The loss is no sum over images, so its gradient needs all predictions at once. Of several parts each is computed
        a second time when the gradient comes back.
        """

        def unet(*part: torch.Tensor) -> torch.Tensor:
            return self.pipe.unet(part[0], part[1], encoder_hidden_states=part[2]).sample.float()

        if len(noisy) <= self.settings.part:
            return unet(noisy, at, states)
        parts = zip(*(each.split(self.settings.part) for each in (noisy, at, states)), strict=True)
        return torch.cat([checkpoint(unet, *part, use_reentrant=False) for part in parts])

    def stage(self, number: int) -> tuple[str, ...]:
        """The parts that update `number` trains."""
        stage = self.stages[number * len(self.stages) // self.settings.updates]
        return tuple(part for part in BOTH if part in stage and part in self.adapter.parts)


def contrastive_loss(
    predicted: dict[str, torch.Tensor],
    added: torch.Tensor | None,
    texts: dict[str, torch.Tensor],
    parts: tuple[str, ...] = BOTH,
) -> dict[str, torch.Tensor]:
    """The paper's loss of a batch of triplets for a stage that trains `parts`, with its terms.

    `predicted` holds the predicted noise [N, C, h, w] of each role, `added` the noise of the positives (both unused for
    the text encoder alone), `texts` the text encoder's last hidden state [N, L, D] of each role::

        denoise   MSE(predicted positive, added)
        text      mean (cos(anchor, positive) - cos(anchor, negative))^2
        vision    (1 - MSE(positive, negative))^2 + MSE(positive, anchor)^2

    so that a person of other classes is as close to the anchor's text as one of the same classes, and the positive's
    noise is closer to the anchor's than to the negative's. The cosine of two texts runs along the tokens, one for each
    of the D features. `WEIGHTS` says which terms a stage has.
    """
    cosine = torch.nn.functional.cosine_similarity
    near, far = (cosine(texts["anchor"], texts[role], dim=1) for role in ("positive", "negative"))
    terms = {"text": (near - far).square().mean()}
    if predicted:
        apart = (predicted["positive"] - predicted["negative"]).square().mean()
        together = (predicted["positive"] - predicted["anchor"]).square().mean()
        terms["denoise"] = (predicted["positive"] - added).square().mean()
        terms["vision"] = (1 - apart).square() + together.square()
    weights = WEIGHTS[parts]
    return {"loss": sum(weight * terms[name] for name, weight in weights.items())} | {
        name: terms[name] for name in WEIGHTS[BOTH] if name in terms
    }
