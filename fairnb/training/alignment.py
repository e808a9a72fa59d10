"""Fine-tuning by alignment, for every adapter: sample a prompt's images, align their classes, keep the picture.

An update (Bias Neurons; FFD, Shen et al., ICLR 2024): images of one prompt are sampled with the current weights, the
guide looks at their faces, `alignment` says which class each should have, and the gradient of

    class_weight * cross-entropy + dynamic weight * (semantics_weight * (1 - cosine) + latent_weight * squared distance)
    + face_weight * (1 - cosine of faces)

(to a reference picture from the same noise, see `Unchanged.references`, and to a whole face, `Unchanged.face_goal`) is
carried from the pictures to the latents by autograd and from there to the weights by `sampling`. It runs under
`torchrun` unchanged: the images of an update are divided over the processes.

Two additions of ours: every so manyth update draws a prompt that names a class and asks for the picture the original
model draws for it (`finetune.named_every`), so that what is unlearned is the occupation's class, not the word's; and
the change may act in early steps only (`finetune.acts_from`), so that late ones draw no face between two classes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline

from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.gradients import adjusted_backward, sample_with_gradient, trajectory
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.measure import metrics
from fairnb.measure.targets import targets
from fairnb.profiles import Finetune, Sampling
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.templates import name_class
from fairnb.seeds import stable_seed
from fairnb.training import loop
from fairnb.training.losses import (
    classification_loss,
    damped_inside,
    dynamic_weight,
    face_loss,
    latent_loss,
    semantics_loss,
)
from fairnb.training.reference_model import Originals, ReferenceModel
from fairnb.vision.faces import Faces, crop_faces
from fairnb.vision.perception import NO_FACE, VisionModels

JITTER = 0.04  # of the face's size: the guide sees a slightly different crop each time, so no single pixel pleases it


@dataclass
class AlignmentRun:
    """One run: the model, its adapter and eyes, and the shares that each attribute's classes should get.

    `known` keeps the originals per prompt; runs that differ only in their adapter may share it.
    """

    pipe: StableDiffusionPipeline
    adapter: Adapter
    vision: VisionModels
    shares: dict
    settings: Finetune
    sampling: Sampling
    seed: int
    known: dict[str, Originals] = field(default_factory=dict)

    @cached_property
    def reference_model(self) -> ReferenceModel:
        """The model without the adapter."""
        return ReferenceModel(self.pipe, self.adapter, self.vision, self.names, self.settings, self.sampling, self.seed)

    @cached_property
    def accelerator(self) -> Accelerator:
        """Made when the run starts, so that it sees the processes of `torchrun`."""
        return Accelerator(cpu=not torch.cuda.is_available())

    def train(self, train: list[str], validation: list[str], folder: str | Path, record: dict | None = None):
        """Fine-tune on the prompts `train`; returns the history, a row an update (see `training.train`).

        `UserError` when the loss is not finite or the images cannot be divided over the processes.
        """
        self.check_shares()
        settings, parts = self.settings, (self.pipe.unet, self.pipe.vae)
        if settings.images % self.accelerator.num_processes:
            count = self.accelerator.num_processes
            raise UserError(f"finetune.images = {settings.images} cannot be divided over {count} processes")

        def update(number: int) -> dict:
            if settings.face_weight and self.reference_model.bank is None:
                self.reference_model.gather_bank(train)
            prompt = pick_prompt(train, self.seed, number)
            if prompt not in self.known:
                self.known[prompt] = self.reference_model.originals(prompt)
            return self.gradient(prompt, self.known[prompt], number) | {"prompt": prompt}

        if settings.gradient_checkpointing:
            for part in parts:
                part.enable_gradient_checkpointing()
        try:
            validate = (lambda: self.validate(validation)) if validation else None
            about = self.about() | (record or {})
            return loop.train(self.adapter, settings, folder, update, validate, about, self.accelerator)
        finally:
            for part in parts:
                part.disable_gradient_checkpointing()

    def factors(self, factor: float | dict[str, float]) -> float | list[float]:
        """A factor for all attributes, or one for each in their order (1 where none is named)."""
        return [factor.get(name, 1.0) for name in self.names] if isinstance(factor, dict) else factor

    def check_shares(self) -> None:
        """`UserError` for shares of an attribute that the guide does not know, or of more combinations of classes than
        an update has images."""
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

    def about(self) -> dict:
        """The training record that goes into the patch."""
        target = {
            name if isinstance(name, str) else "+".join(name): np.asarray(wanted).tolist()
            for name, wanted in self.shares.items()
        }
        settings, sampling = self.settings.model_dump(), self.sampling.model_dump()
        return {"target": target, "seed": self.seed, "settings": settings, "sampling": sampling}

    def told(self, number: int) -> tuple[int, ...] | None:
        """The classes [A] that the prompt of update `number` names, each in turn, or None: a plain prompt.

        "A photo of a male pilot" must still show a man: every `finetune.named_every`-th update asks for that.
        """
        every = self.settings.named_every
        if not every or (number + 1) % every:
            return None
        sizes = [len(get_attribute(name).classes) for name in self.names]
        return tuple(int(i) for i in np.unravel_index(number // every % np.prod(sizes), sizes))

    @torch.no_grad()
    def validate(self, prompts: list[str]) -> float:
        """Bias as the guide sees it, mean over the prompts (and over the aligned attributes)."""
        biases = []
        for prompt in prompts:
            faces, probabilities = self.look(self.reference_model.draw(prompt, range(self.settings.images)))
            found = torch.from_numpy(faces.found)
            biases.append(_bias({name: probs[found] for name, probs in probabilities.items()}))
        return float(np.mean(biases))

    @property
    def names(self) -> list[str]:
        """The attributes that are aligned."""
        return [name for key in self.shares for name in ((key,) if isinstance(key, str) else key)]

    def look(self, latents: torch.Tensor) -> tuple[Faces, dict[str, torch.Tensor]]:
        """`Eyes.look` for the attributes that are aligned."""
        return self.vision.look(self.pipe, latents, self.names, self.sampling.batch)

    def gradient(self, prompt: str, originals: Originals, number: int) -> dict[str, float]:
        """Put the gradient of update `number` into the adapter's parameters; returns its losses, bias and counts."""
        settings, process, count = self.settings, self.accelerator.process_index, self.accelerator.num_processes
        rng = np.random.default_rng(stable_seed(self.seed, "images", number))
        indices = np.sort(rng.choice(settings.pool, settings.images, replace=False))
        own = slice(process * len(indices) // count, (process + 1) * len(indices) // count)
        jitter = rng.normal(0, JITTER, (len(indices), 4))[own]
        told = self.told(number)
        latents, backward = self.differentiable(prompt, self.reference_model.words(told), indices[own].tolist(), number)
        faces, probabilities = self.look(latents)
        device = latents.device
        found = self.accelerator.gather(torch.from_numpy(faces.found).to(device))
        everyone = {name: self.accelerator.gather(probabilities[name]) for name in self.names}
        if told:
            wanted = {name: torch.where(found, i, NO_FACE) for name, i in zip(self.names, told, strict=True)}
            confident = dict.fromkeys(self.names, found)
        else:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "targets", number))
            wanted, sure = targets(everyone, self.shares, found=found, generator=generator)
            confident = {name: sure[name] >= settings.confidence for name in self.names}
        pool = torch.from_numpy(indices[own]).to(device)
        own_wanted = torch.stack([wanted[name][own] for name in self.names], 1)
        if told:
            weight = torch.ones(len(pool), device=device)
            goal = self.reference_model.named(prompt, pool.tolist(), [told] * len(pool))
            goal_features = self.vision.features(self.pipe, goal, self.sampling.batch)
        else:
            weight = dynamic_weight(own_wanted, originals.classes[pool], self.factors(settings.changed_factor))
            goal, goal_features = self.reference_model.references(prompt, originals, pool, own_wanted)
        factors = 1.0 if told else self.factors(settings.face_box_factor)
        inside = dynamic_weight(own_wanted, originals.classes[pool], factors)
        both = np.fmin(faces.boxes, originals.boxes[indices[own]])[:, :2]
        both = np.concatenate([both, np.fmax(faces.boxes, originals.boxes[indices[own]])[:, 2:]], 1)
        face_goal = None
        if settings.face_weight and not told:
            face_goal = self.reference_model.face_goal(latents, faces, originals, pool, own_wanted)
        weights = torch.tensor(
            [settings.class_weight, settings.semantics_weight, settings.latent_weight, settings.face_weight],
            device=device,
        )
        losses = torch.zeros(4, device=device)
        for start in range(0, len(pool), settings.part):
            rows = slice(start, start + settings.part)
            images = decode(self.pipe, latents[rows])
            features = self.vision.image_features(damped_inside(images, both[rows], inside[rows]))
            share = len(images) / len(indices)
            class_loss = self.class_loss(images, faces, jitter, rows, own, wanted, confident)
            image_loss = self.vision.encoders * semantics_loss(features, goal_features[rows], weight[rows]) * share
            distance = latent_loss(latents[rows], goal[rows], weight[rows]) * share
            realism = self.face_loss(images, faces, rows, face_goal) / len(indices)
            part = torch.stack([class_loss, image_loss, distance, realism])
            (weights @ part).backward()
            losses += part.detach()
        backward(latents.grad)
        for parameter in self.adapter.parameters():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        losses = self.accelerator.reduce(losses, "sum")
        class_loss, image_loss, distance, realism = losses.tolist()
        classes = {name: everyone[name].argmax(1) for name in self.names}
        return {
            "loss": (weights @ losses).item(),
            "class_loss": class_loss,
            "image_loss": image_loss,
            "latent_loss": distance,
            "face_loss": realism,
            "bias": float("nan") if told else _bias({name: everyone[name][found] for name in self.names}),
            "faceless": int((~found).sum()),
            "to_change": sum(int((wanted[name] != classes[name])[found].sum()) for name in self.names),
        }

    def class_loss(self, images, faces: Faces, jitter, rows: slice, own: slice, wanted, confident) -> torch.Tensor:
        """This part's share of the mean cross-entropy over all confident images of the update."""
        with_face = np.flatnonzero(faces.found[rows])
        loss = images.new_zeros(())
        if not len(with_face):
            return loss
        boxes = faces.boxes[rows][with_face]
        boxes = boxes + jitter[rows][with_face] * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
        logits = self.vision.guide(crop_faces(images[with_face], boxes, self.vision.guide.size))
        for name in self.names:
            sure = confident[name][own][rows][with_face]
            mean = classification_loss(logits[name], wanted[name][own][rows][with_face], sure)
            loss = loss + mean * sure.sum() / confident[name].sum().clamp(min=1)
        return loss

    def face_loss(self, images: torch.Tensor, faces: Faces, rows: slice, goal: torch.Tensor | None) -> torch.Tensor:
        """Sum of the face-realism loss over this part's faces."""
        with_face = np.flatnonzero(faces.found[rows])
        if goal is None or not len(with_face):
            return images.new_zeros(())
        crops = crop_faces(images[with_face], faces.boxes[rows][with_face], self.vision.guide.size)
        return face_loss(self.vision.guide.features(crops), goal[rows][with_face])

    def steps(self, number: int) -> int:
        """Denoising steps of update `number`: those of the sampling, or drawn from `finetune.steps` (FFD: 19 to 23)."""
        if self.settings.steps is None:
            return self.sampling.steps
        least, most = self.settings.steps
        return least + stable_seed(self.seed, "number of steps", number) % (most + 1 - least)

    def differentiable(self, prompt: str, words: str, indices: list[int], number: int):
        """Final latents [N, C, h, w] as a leaf, and the function that carries their gradient to the weights."""
        start = noise(self.pipe, prompt, indices, self.seed)
        prompt = name_class(prompt, words)
        how = {"steps": self.steps(number), "guidance_scale": self.sampling.guidance_scale}
        if self.settings.gradient == "adjusted":
            parts = start.split(self.sampling.batch)
            paths = [trajectory(self.pipe, prompt, part, **how) for part in parts]
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "steps", number))

            def backward(gradient: torch.Tensor) -> None:
                for path, part in zip(paths, gradient.split(self.sampling.batch), strict=True):
                    adjusted_backward(
                        self.pipe,
                        path,
                        part,
                        guidance_scale=self.sampling.guidance_scale,
                        steps_used=self.settings.gradient_steps,
                        first=int((path.timesteps >= self.adapter.acts_from).sum()),
                        generator=generator,
                        part=self.settings.part,
                    )

            return torch.cat([path.final for path in paths]).detach().requires_grad_(), backward
        # Sampled again for the graph, as Bias Neurons does: a graph held from the start would not outlive the drawing
        # of references, for which the weights are set back in place.
        last = self.settings.gradient_steps if self.settings.gradient == "last" else None
        final = sample(self.pipe, prompt, start, **how)
        return final.requires_grad_(), lambda gradient: sample_with_gradient(
            self.pipe, prompt, start, last=last, **how
        ).backward(gradient)


def pick_prompt(prompts: list[str], seed: int, number: int) -> str:
    """The prompt of update `number`: each once a round, every round in another order."""
    round_, place = divmod(number, len(prompts))
    order = np.random.default_rng(stable_seed(seed, "order", round_)).permutation(len(prompts))
    return prompts[order[place]]


def _bias(probabilities: dict[str, torch.Tensor]) -> float:
    """Mean over the attributes of the bias of the classes seen; NaN when no face was found."""
    biases = []
    for probs in probabilities.values():
        counts = torch.bincount(probs.argmax(1), minlength=probs.shape[1]).double()
        biases.append(metrics.bias((counts / counts.sum()).cpu().numpy()))
    return float(np.mean(biases))
