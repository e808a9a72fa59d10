"""Triplets for contrastive fine-tuning (Debiasing Text-to-Image Models via Data Augmentation and Contrastive Learning).

A photograph of one person is an *anchor*. Its *positive* is a generated picture of the same activity with the other
gender and another skin tone (or race), its *negative* one with the same. The paper never looks at what was generated;
here the classifier must see the classes that were asked for, else the picture is drawn again.

`Contrast` trains an adapter with the paper's loss, in the loop of all trainings. The paper draws noise and timestep
apart for each member of a triplet, so that its vision term compares noises rather than pictures; `shared` draws them
once a triplet. That loss never shows the model another class under a caption that names none. `"denoise"` does just
this, and nothing else: the augmented data without the contrast.
"""

import json
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
from tqdm import tqdm

from fairnb import training
from fairnb.adapters import Adapter
from fairnb.attributes import WORD_ORDER, get_attribute
from fairnb.errors import UserError
from fairnb.eyes import Eyes, judged
from fairnb.generate import load_image, save_image
from fairnb.pipeline import tokenize
from fairnb.profiles import Finetune, Sampling
from fairnb.prompts import name_class, stable
from fairnb.records import read_json, write_atomically, write_json
from fairnb.sampling import decode, noise, sample

ROLES = ("anchor", "positive", "negative")
METADATA = "metadata.jsonl"


def other_classes(classes: dict[str, str], seed: int, key: object) -> dict[str, str]:
    """For each attribute a class other than that of `classes`, drawn by a stable hash of seed and `key`."""
    chosen = {}
    for name, own in classes.items():
        others = [each for each in get_attribute(name).classes if each != own]
        chosen[name] = others[stable(seed, key, name) % len(others)]
    return chosen


def make_triplets(
    pipe: StableDiffusionPipeline,
    eyes: Eyes,
    photos: pd.DataFrame,
    source: str | Path,
    folder: str | Path,
    *,
    attributes: Sequence[str],
    sampling: Sampling,
    seed: int,
    tries: int = 4,
    write: Callable[[str, str], str] = name_class,
) -> pd.DataFrame:
    """Make a triplet of each photograph (`photos.one_person`; the images lie in `source`) and write them to `folder`.

    The folder is a Hugging Face image folder: <triplet>_<role>.png, and metadata.jsonl with file_name, text, triplet,
    role, activity, the classes, and how many pictures were drawn until the guide surely saw them. A photograph whose
    positive or negative fails `tries` times is left out. Killed and called again it goes on. Returns the metadata;
    its `attrs["rejected"]` counts the pictures and `attrs["left_out"]` the photographs that were not taken.
    `write` makes the prompt from the caption and the words of the classes; the paper has a paid service do it.
    `UserError` for an attribute that nobody labelled, and when no triplet is whole.
    """
    folder, source = Path(folder), Path(source)
    if missing := [name for name in attributes if name not in photos]:
        raise UserError(f"the photographs are not labelled with {missing[0]}: use a classifier that knows it")
    plan = {"attributes": list(attributes), "sampling": sampling.model_dump(), "seed": seed, "tries": tries}
    plan |= {"photos": photos.path.tolist()}
    if (folder / "plan.json").is_file() and read_json(folder / "plan.json") != plan:
        raise UserError(f"{folder} holds triplets of other photographs or settings: delete it or choose another folder")
    write_json(folder / "plan.json", plan)
    done = []
    for number, row in enumerate(tqdm(list(photos.itertuples()), "triplets")):
        path = folder / "done" / f"{number}.json"
        if not path.is_file():
            own = {name: getattr(row, name) for name in attributes}
            made = _triplet(pipe, eyes, number, row.caption, own, sampling, seed, tries, write)
            if made["whole"]:
                save_image(load_image(source / row.path), folder / f"{number}_anchor.png")
                for role, picture in made["pictures"].items():
                    save_image(picture, folder / f"{number}_{role}.png")
            lines = [line | {"activity": row.prompt} for line in made["lines"]]
            write_json(path, {"whole": made["whole"], "rejected": made["rejected"], "lines": lines})
        done.append(read_json(path))
    lines = [line for each in done if each["whole"] for line in each["lines"]]
    if not lines:
        raise UserError(
            f"of {len(photos)} photographs no triplet is whole after {tries} tries each: raise tries, or look whether "
            f"the model obeys {' and '.join(attributes)} in a prompt"
        )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / METADATA, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    table = pd.DataFrame(lines)
    table.attrs = {
        "rejected": sum(each["rejected"] for each in done),
        "left_out": sum(not each["whole"] for each in done),
    }
    return table


def read_triplets(folder: str | Path) -> pd.DataFrame:
    """The metadata of triplets; `UserError` for a folder without it, or a triplet that lacks a member or a file."""
    path = Path(folder) / METADATA
    try:
        table = pd.DataFrame(
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        )
        roles = table.groupby("triplet").role.agg(list)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} cannot be read as triplets ({error}): make them with notebook 11") from error
    for number, members in roles.items():
        if sorted(members) != sorted(ROLES):
            lacking = ", ".join(sorted(set(ROLES) - set(members))) or "no member, but has one twice"
            raise UserError(f"{path}: triplet {number} lacks {lacking}: remove its lines or make it again")
    for name in table.file_name:
        if not (path.parent / name).is_file():
            raise UserError(f"{path.parent / name} is missing: copy it, or remove its triplet from {path.name}")
    return table


@dataclass
class Contrast:
    """One run: triplets from `folder`, the adapter they train, and the loop's settings (`images` triplets an update).

    `loss` is the paper's ("contrastive", see `contrastive_loss`), or "denoise": the mean square error of the predicted
    noise of anchor and positive, both under the anchor's caption, so that it is learned with both classes alike.
    `stages` names the parts that are trained, one after the other for equally many updates: (("text_encoder",),
    ("unet",), ("text_encoder", "unet")) is the paper's sequence. More than one needs a LoRA of both.
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
        """The metadata with a row a triplet and a column a role: file_name and text."""
        return read_triplets(self.folder).pivot(index="triplet", columns="role", values=["file_name", "text"])

    @cached_property
    @torch.no_grad()
    def latents(self) -> dict[str, torch.Tensor]:
        """The VAE's latents [N, C, h, w] of all pictures of each role."""
        encoded = {}
        for role in ROLES:
            parts = []
            for name in self.triplets.file_name[role]:
                picture = load_image(self.folder / name)[None].to(self.pipe.device, self.pipe.vae.dtype)
                parts.append(self.pipe.vae.encode(picture).latent_dist.mean.float())
            encoded[role] = torch.cat(parts) * self.pipe.vae.config.scaling_factor
        return encoded

    def train(self, validate: Callable[[], float] | None, folder: str | Path, record: dict) -> pd.DataFrame:
        """Train in the one loop (`training.train`); `validate` tells the bias of the model as it stands."""
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        return training.train(self.adapter, self.settings, folder, self.gradient, validate, record, accelerator)

    def gradient(self, number: int) -> dict:
        """Put the gradient of update `number` into the adapter's parameters; returns its losses."""
        rng = np.random.default_rng(stable(self.seed, "triplets", number))
        count = min(self.settings.images, len(self.triplets))
        rows = np.sort(rng.choice(len(self.triplets), count, replace=False))
        chosen = self.triplets.iloc[rows]
        generator = torch.Generator().manual_seed(stable(self.seed, "noise", number))
        scheduler = DDPMScheduler.from_config(self.pipe.scheduler.config)  # samplers know no velocity
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
        self._rest(number)
        return {name: value.item() for name, value in losses.items()} | {"prompt": chosen.text["anchor"].iloc[0]}

    def _texts(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The text encoder's states [N, L, D] and pooled features [N, D]."""
        out = self.pipe.text_encoder(tokenize(self.pipe, captions))
        return out.last_hidden_state, out.pooler_output

    def _rest(self, number: int) -> None:
        """Let the parts rest that this stage does not train."""
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
    """The paper's loss of a batch of triplets, and its three parts.

    `predicted` holds the predicted noise [N, C, h, w] of each role, `added` the noise of the positives, `texts` the
    text encoder's features [N, D] of each role::

        denoise   MSE(predicted positive, added)
        text      mean (cos(anchor, positive) - cos(anchor, negative))^2
        vision    (1 - MSE(positive, negative))^2 + MSE(positive, anchor)^2

    so that a person of the other classes is as near to the anchor's text as one of the same, and the positive's noise
    is nearer to the anchor's than to the negative's.
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


def _triplet(pipe, eyes, number, caption, own, sampling, seed, tries, write) -> dict:
    """Positive and negative of one photograph: pictures, metadata lines, and how many were rejected."""
    lines = [{"file_name": f"{number}_anchor.png", "text": caption, "triplet": number, "role": "anchor", **own}]
    wanted = {"positive": other_classes(own, seed, number), "negative": own}
    pictures, rejected = {}, 0
    for role, classes in wanted.items():
        named = sorted(classes, key=WORD_ORDER.index)
        words = " ".join(get_attribute(name).words[get_attribute(name).index(classes[name])] for name in named)
        prompt = write(caption, words)
        for attempt in range(tries):
            start = noise(pipe, f"{number} {role} {prompt}", [attempt], seed)
            final = sample(pipe, prompt, start, steps=sampling.steps, guidance=sampling.guidance)
            seen, sure = judged(*eyes.look(pipe, final, list(classes), sampling.batch))
            asked = [get_attribute(name).index(each) for name, each in classes.items()]
            if bool(sure[0]) and seen[0].tolist() == asked:
                with torch.no_grad():
                    pictures[role] = decode(pipe, final)[0]
                line = {"file_name": f"{number}_{role}.png", "text": prompt, "triplet": number, "role": role}
                lines.append(line | classes | {"tries": attempt + 1})
                break
            rejected += 1
    return {"whole": len(pictures) == 2, "pictures": pictures, "lines": lines, "rejected": rejected}
