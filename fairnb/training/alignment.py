"""Distribution alignment fine-tuning, for any adapter (Bias Neurons; FFD, Shen et al., ICLR 2024).

An update generates images of one prompt with the current weights, detects and classifies their faces with the guide,
assigns a target class to each (`measure.targets`), and follows the gradient of

    class_weight * cross-entropy + dynamic weight * (semantics_weight * (1 - cosine) + latent_weight * squared distance)
    + face_weight * (1 - cosine of faces)

summed over the images and divided by their number. A target that is not confident counts in neither the first term nor
the last. The image terms compare with a reference image of the same noise (`ReferenceModel.references`) and the last
one with the face of a clear example (`ReferenceModel.face_goal`). Autograd carries the gradient from the images to the
latents, `diffusion.gradients` from there to the weights. Under `torchrun` the images of an update are divided over the
processes.

Two additions are ours. Every `finetune.named_every`-th prompt names a class, another in each image, and asks for the
images that the reference model generates for these prompts, so that the model unlearns the class of the occupation and
not the class word. And the change may be limited to early timesteps (`finetune.acts_from`), so that late ones do not
draw a face between two classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline

from fairnb.adapters.protocol import Adapter, adapter_identity
from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.gradients import adjusted_backward, full_backward, sample_with_gradient, trajectory
from fairnb.diffusion.kinds import check_adjusted
from fairnb.diffusion.pipeline import check_words, divided, processes
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.identity import hashed
from fairnb.measure.metrics import bias
from fairnb.measure.targets import targets
from fairnb.profiles import WITHOUT_EFFECT, Finetune, Sampling
from fairnb.prompts.attributes import get_attribute
from fairnb.seeds import stable_seed
from fairnb.training.loop import train_adapter
from fairnb.training.losses import (
    classification_loss,
    damped_inside,
    dynamic_weight,
    face_loss,
    latent_loss,
    semantics_loss,
    shared_box,
)
from fairnb.training.reference_model import Originals, ReferenceModel
from fairnb.vision.faces import Faces, crop_faces
from fairnb.vision.perception import NO_FACE, VisionModels

# Of the face's size: the crop varies a little between updates, so that no single pixel satisfies the guide.
JITTER = 0.04


@dataclass
class AlignmentRun:
    """One fine-tuning run: the model, its adapter, the vision models, and the target shares of each attribute.

    `shares` maps an attribute to [K] shares, or a tuple of attributes to joint shares [K1, K2, ...]. `originals` caches
    the original images of each prompt; runs that differ only in their adapter may share it.
    """

    pipe: StableDiffusionPipeline
    adapter: Adapter
    vision: VisionModels
    shares: dict
    settings: Finetune
    sampling: Sampling
    seed: int
    originals: dict[str, Originals] = field(default_factory=dict)

    @cached_property
    def reference_model(self) -> ReferenceModel:
        """The model without its adapter."""
        return ReferenceModel(
            self.pipe, self.adapter, self.vision, self.attributes, self.settings, self.sampling, self.seed
        )

    @cached_property
    def accelerator(self) -> Accelerator:
        """Created when the run starts, so that it finds the processes of `torchrun`."""
        processes()  # which wait for each other as long as it takes
        return Accelerator(cpu=not torch.cuda.is_available())

    @property
    def attributes(self) -> list[str]:
        """The attributes that are aligned."""
        return [name for key in self.shares for name in ((key,) if isinstance(key, str) else key)]

    def train(
        self, train: list[str], validation: list[str], folder: str | Path, record: dict | None = None
    ) -> pd.DataFrame:
        """Fine-tune on the prompts `train`; return the history, a row per update (see `loop.train_adapter`).

        The bias of the prompts `validation` selects the patch. `UserError` if the loss is not finite, the shares do not
        fit, or the images of an update cannot be divided over the processes.
        """
        self.check_shares()
        check_words(self.pipe, [*train, *validation])
        settings, parts = self.settings, (self.pipe.unet, self.pipe.vae)
        if settings.images % self.accelerator.num_processes:
            count = self.accelerator.num_processes
            raise UserError(f"finetune.images = {settings.images} cannot be divided over {count} processes")

        def update(number: int) -> dict:
            if settings.face_weight and self.reference_model.bank is None:
                self.reference_model.gather_bank(train)
            rows = []
            for visit in range(number * settings.prompts, (number + 1) * settings.prompts):
                prompt = pick_prompt(train, self.seed, visit)
                if prompt not in self.originals:
                    self.originals[prompt] = self.reference_model.originals(prompt)
                rows.append(self.gradient(prompt, self.originals[prompt], visit) | {"prompt": prompt})
            for parameter in self.adapter.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "sum") / settings.prompts
            return _together(rows)

        if settings.gradient_checkpointing:
            for part in parts:
                part.enable_gradient_checkpointing()
        try:
            validate = (lambda: self.validate(validation)) if validation else None
            identity = self.identity(train, validation)
            record = self.training_record() | (record or {})
            return train_adapter(self.adapter, settings, folder, update, validate, identity, record, self.accelerator)
        finally:
            for part in parts:
                part.disable_gradient_checkpointing()

    def check_shares(self) -> None:
        """Raise `UserError` if the guide lacks an attribute, an update has fewer images than combinations of classes,
        or its gradient does not fit the scheduler or wants more denoising steps than there are."""
        if self.settings.gradient == "adjusted":
            check_adjusted(self.pipe.scheduler)
        steps, used = min(self.settings.steps or [self.sampling.steps]), self.settings.gradient_steps or 0
        if used > steps:
            raise UserError(f"finetune.gradient_steps = {used} exceeds the {steps} denoising steps: use 1 to {steps}")
        for key, wanted in self.shares.items():
            names = (key,) if isinstance(key, str) else key
            for name in names:
                if name not in self.vision.guide.classes:
                    known = ", ".join(self.vision.guide.classes)
                    raise UserError(f"shares of {name} cannot be trained: the guide only knows {known}")
            cells = int((np.asarray(wanted) > 0).sum())
            if cells > self.settings.images:
                raise UserError(
                    f"{self.settings.images} images an update cannot show the {cells} combinations of "
                    f"{' and '.join(names)}: raise finetune.images to {cells} or more"
                )

    def training_record(self) -> dict:
        """The record that is stored in the patch: target shares, seed and settings."""
        target = {
            name if isinstance(name, str) else "+".join(name): np.asarray(wanted).tolist()
            for name, wanted in self.shares.items()
        }
        settings, sampling = self.settings.model_dump(), self.sampling.model_dump()
        return {"target": target, "seed": self.seed, "settings": settings, "sampling": sampling}

    def identity(self, train: list[str], validation: list[str]) -> dict:
        """What decides the result of `train` (see `fairnb.identity`)."""
        record = self.training_record()
        return record | {
            "settings": {key: value for key, value in record["settings"].items() if key not in WITHOUT_EFFECT},
            "prompts": hashed([train, validation]),
            "adapter": adapter_identity(self.adapter),
            "model": model_identity(self.pipe),
            "vision": self.vision.identity(),
        }

    @torch.no_grad()
    def validate(self, prompts: list[str]) -> float:
        """Bias measured by the guide, mean over the prompts and the aligned attributes."""

        def measured(prompt: str) -> float:
            latents = self.reference_model.generate(prompt, range(self.settings.images))
            seen = self.vision.perceive(self.pipe, latents, self.sampling.batch)
            found = torch.from_numpy(seen.faces.found)
            return _mean_bias({name: seen.probabilities[name][found] for name in self.attributes})

        return float(np.mean(divided(prompts, measured)))

    def named_classes(self, number: int) -> torch.Tensor | None:
        """The class indices [N, A] named for the images of the `number`-th prompt, or None for a plain prompt.

        "A photo of a male pilot" must still show a man: every `finetune.named_every`-th prompt trains that. The
        combinations of classes take turns from image to image, so that the update learns what the words differ in, and
        not to draw one class.
        """
        every = self.settings.named_every
        if not every or (number + 1) % every:
            return None
        each = torch.cartesian_prod(*(torch.arange(len(get_attribute(name).classes)) for name in self.attributes))
        turns = (number // every + torch.arange(self.settings.images)) % len(each)
        return each.reshape(len(each), -1)[turns]

    def gradient(self, prompt: str, originals: Originals, number: int) -> dict[str, float]:
        """Add the gradient of a prompt, the `number`-th of the run, to that of the adapter's parameters.

        It is this process's part of it. Returns the losses, bias and counts of all processes.
        """
        settings, process, count = self.settings, self.accelerator.process_index, self.accelerator.num_processes
        rng = np.random.default_rng(stable_seed(self.seed, "images", number))
        indices = np.sort(rng.choice(settings.pool, settings.images, replace=False))
        own = slice(process * len(indices) // count, (process + 1) * len(indices) // count)
        jitter = rng.normal(0, JITTER, (len(indices), 4))[own]
        named = self.named_classes(number)
        prompts = prompt if named is None else self.reference_model.naming(prompt, named[own].tolist())
        latents, backward = self.differentiable(prompt, prompts, indices[own].tolist(), number)
        seen = self.vision.perceive(self.pipe, latents, self.sampling.batch)
        found = self.accelerator.gather(torch.from_numpy(seen.faces.found).to(latents.device))
        everyone = {name: self.accelerator.gather(seen.probabilities[name]) for name in self.attributes}
        wanted, confident = self._targets(everyone, found, named, number)
        pool = indices[own]
        losses = self._backward_to_latents(
            prompt, originals.of(pool, latents.device), latents, seen.faces, jitter, pool, own, wanted, confident, named
        )
        backward(latents.grad)
        losses = self.accelerator.reduce(losses, "sum")
        class_loss, image_loss, distance, realism = losses.tolist()
        classes = {name: everyone[name].argmax(1) for name in self.attributes}
        lost = abs(int((~found).sum()) - int(np.isnan(originals.boxes[indices]).any(1).sum()))
        return {
            "loss": (self._loss_weights(losses.device) @ losses).item() + settings.faceless_weight * lost,
            "class_loss": class_loss,
            "image_loss": image_loss,
            "latent_loss": distance,
            "face_loss": realism,
            "bias": float("nan")
            if named is not None
            else _mean_bias({name: everyone[name][found] for name in self.attributes}),
            "faceless": int((~found).sum()),
            "to_change": sum(int((wanted[name] != classes[name])[found].sum()) for name in self.attributes),
        }

    def _targets(
        self, probabilities: dict[str, torch.Tensor], found: torch.Tensor, named: torch.Tensor | None, number: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Target class [N] and whether it counts [N], per attribute, for the images of all processes."""
        if named is not None:
            classes = named.T.to(found.device)
            wanted = {name: torch.where(found, i, NO_FACE) for name, i in zip(self.attributes, classes, strict=True)}
            return wanted, dict.fromkeys(self.attributes, found)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "targets", number))
        wanted, confidence = targets(probabilities, self.shares, found=found, generator=generator)
        return wanted, {name: confidence[name] >= self.settings.confidence for name in self.attributes}

    def _loss_weights(self, device: torch.device) -> torch.Tensor:
        settings = self.settings
        return torch.tensor(
            [settings.class_weight, settings.semantics_weight, settings.latent_weight, settings.face_weight],
            device=device,
        )

    def _backward_to_latents(
        self, prompt, originals: Originals, latents, faces: Faces, jitter, pool, own: slice, wanted, confident, named
    ) -> torch.Tensor:
        """Put the gradient of the weighted losses into `latents.grad`; return this process's part of the four losses.

        `pool` [n] are this process's noises, `originals` are those of them, `own` its rows within the update; `wanted`
        and `confident` cover all rows.
        """
        settings, reference_model = self.settings, self.reference_model
        own_wanted, sure = (torch.stack([of[name][own] for name in self.attributes], 1) for of in (wanted, confident))
        if named is not None:
            weight = torch.ones(len(pool), device=latents.device)
            goal = reference_model.named(prompt, pool.tolist(), named[own].tolist())
            goal_features = self.vision.features(self.pipe, goal, self.sampling.batch)
        else:
            factor = self._per_attribute(settings.changed_factor)
            weight = dynamic_weight(own_wanted, sure, originals.classes, factor)
            goal, goal_features = reference_model.references(prompt, originals, pool, own_wanted)
        factor = 1.0 if named is not None else self._per_attribute(settings.face_box_factor)
        inside = dynamic_weight(own_wanted, sure, originals.classes, factor)
        both = shared_box(faces.boxes, originals.boxes)
        face_goal = None
        if settings.face_weight and named is None:
            face_goal = reference_model.face_goal(latents, faces, originals, own_wanted)
            face_goal[~sure.all(1)] = torch.nan
        weights = self._loss_weights(latents.device)
        losses = torch.zeros(4, device=latents.device)
        for start in range(0, len(pool), settings.part):
            rows = slice(start, start + settings.part)
            images = decode(self.pipe, latents[rows])
            features = self.vision.image_features(damped_inside(images, both[rows], inside[rows]))
            share = len(images) / settings.images
            class_loss = self._class_loss(images, faces, jitter, rows, own, wanted, confident)
            image_loss = self.vision.encoders * semantics_loss(features, goal_features[rows], weight[rows]) * share
            distance = latent_loss(latents[rows], goal[rows], weight[rows]) * share
            realism = self._face_loss(images, faces, rows, face_goal) / settings.images
            part = torch.stack([class_loss, image_loss, distance, realism])
            (weights @ part).backward()
            losses += part.detach()
        return losses

    def _per_attribute(self, factor: float | dict[str, float]) -> float | list[float]:
        """A factor for all attributes, or a list with one for each (1 for an attribute without one)."""
        return [factor.get(name, 1.0) for name in self.attributes] if isinstance(factor, dict) else factor

    def _class_loss(self, images, faces: Faces, jitter, rows: slice, own: slice, wanted, confident) -> torch.Tensor:
        """The contribution of these rows to the cross-entropy of the update, summed over the attributes."""
        with_face = np.flatnonzero(faces.found[rows])
        loss = images.new_zeros(())
        if not len(with_face):
            return loss
        boxes = faces.boxes[rows][with_face]
        boxes = boxes + jitter[rows][with_face] * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
        logits = self.vision.guide(crop_faces(images[with_face], boxes, self.vision.guide.size))
        for name in self.attributes:
            sure = confident[name][own][rows][with_face]
            target = wanted[name][own][rows][with_face]
            loss = loss + classification_loss(logits[name], target, sure, self.settings.images)
        return loss

    def _face_loss(self, images: torch.Tensor, faces: Faces, rows: slice, goal: torch.Tensor | None) -> torch.Tensor:
        """Sum of the face realism loss over the faces of these rows."""
        with_face = np.flatnonzero(faces.found[rows])
        if goal is None or not len(with_face):
            return images.new_zeros(())
        crops = crop_faces(images[with_face], faces.boxes[rows][with_face], self.vision.guide.size)
        return face_loss(self.vision.guide.features(crops), goal[rows][with_face])

    def steps(self, number: int) -> int:
        """Denoising steps of the `number`-th prompt: the profile's, or drawn from `finetune.steps` (FFD: 19 to 23)."""
        if self.settings.steps is None:
            return self.sampling.steps
        least, most = self.settings.steps
        return least + stable_seed(self.seed, "number of steps", number) % (most + 1 - least)

    def differentiable(
        self, prompt: str, prompts: str | list[str], indices: list[int], number: int
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], None]]:
        """Final latents [N, C, h, w] as a leaf, and the function that carries their gradient to the weights.

        They are drawn from the noises `indices` of `prompt`, by `prompts`: one for all, or one for each image.
        """
        start = noise(self.pipe, prompt, indices, self.seed)
        how = {"steps": self.steps(number), "guidance_scale": self.sampling.guidance_scale}
        if self.settings.gradient == "last":
            # Sampled a second time with the graph, as Bias Neurons does: references are generated in between, with the
            # weights set back in place, and a graph made before would not survive that.
            final = sample(self.pipe, prompts, start, **how)
            return final.requires_grad_(), lambda gradient: sample_with_gradient(
                self.pipe, prompts, start, last=self.settings.gradient_steps, **how
            ).backward(gradient)
        parts = [slice(at, at + self.sampling.batch) for at in range(0, len(start), self.sampling.batch)]
        each = [prompts if isinstance(prompts, str) else prompts[rows] for rows in parts]
        paths = [trajectory(self.pipe, words, start[rows], **how) for words, rows in zip(each, parts, strict=True)]
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "steps", number))
        if self.settings.gradient == "full":
            carry, chosen = full_backward, {"late": self.adapter.disabled}
        else:
            carry, chosen = adjusted_backward, {"steps_used": self.settings.gradient_steps, "generator": generator}

        def backward(gradient: torch.Tensor) -> None:
            for path, part in zip(paths, [gradient[rows] for rows in parts], strict=True):
                first = int((path.timesteps >= self.settings.acts_from).sum())
                limits = {"first": first, "part": self.settings.part}
                carry(self.pipe, path, part, guidance_scale=self.sampling.guidance_scale, **limits, **chosen)

        return torch.cat([path.final for path in paths]).detach().requires_grad_(), backward


def pick_prompt(prompts: list[str], seed: int, number: int) -> str:
    """The `number`-th prompt of a run: every prompt once per round, in a new order each round."""
    round_, place = divmod(number, len(prompts))
    order = np.random.default_rng(stable_seed(seed, "order", round_)).permutation(len(prompts))
    return prompts[order[place]]


def _together(rows: list[dict]) -> dict:
    """The row of an update of several prompts: means of losses and biases, sums of counts, the prompts in one line."""
    table = pd.DataFrame(rows)
    counts = {name: int(table.pop(name).sum()) for name in ("faceless", "to_change")}
    prompt = "; ".join(table.pop("prompt"))
    return {name: float(mean) for name, mean in table.mean().items()} | counts | {"prompt": prompt}


def _mean_bias(probabilities: dict[str, torch.Tensor]) -> float:
    """Bias of the most likely classes, mean over the attributes; NaN without any face."""
    biases = []
    for values in probabilities.values():
        counts = torch.bincount(values.argmax(1), minlength=values.shape[1]).double()
        biases.append(bias((counts / counts.sum()).cpu().numpy()))
    return float(np.mean(biases))
