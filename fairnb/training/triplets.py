"""Triplets for contrastive fine-tuning (Debiasing Text-to-Image Models via Data Augmentation and Contrastive Learning).

A photograph of one person is an *anchor*. Its *positive* is a generated image of the same activity with the other
gender and another skin tone (or race), its *negative* one with the same classes. The paper does not check the generated
images; here the guide must see the requested classes, or the image is generated again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.files import read_json, write_atomically, write_json
from fairnb.identity import content, hashed, refuse_another
from fairnb.measure.images import load_image, save_image
from fairnb.profiles import Sampling
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.prompts.templates import name_class
from fairnb.seeds import stable_seed
from fairnb.vision.perception import VisionModels

ROLES = ("anchor", "positive", "negative")
METADATA = "metadata.jsonl"


def other_classes(classes: dict[str, str], seed: int, key: object) -> dict[str, str]:
    """Draw another class for each attribute of `classes`, by a stable hash of seed and `key`."""
    chosen = {}
    for name, own in classes.items():
        others = [each for each in get_attribute(name).classes if each != own]
        chosen[name] = others[stable_seed(seed, key, name) % len(others)]
    return chosen


def make_triplets(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
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
    """Make a triplet of each photograph (rows of `photographs.one_person`, files in `source`) and write it to `folder`.

    The folder is a Hugging Face image folder: <triplet>_<role>.png, and metadata.jsonl with file_name, text, triplet,
    role, activity, the classes, and the number of images generated until the guide was sure of them. A photograph whose
    positive or negative fails `tries` times is left out. A killed call resumes. Returns the metadata, whose
    `attrs["rejected"]` counts rejected images and `attrs["left_out"]` photographs without a triplet. `write` makes the
    prompt from the caption and the attribute words; the paper uses a commercial language model for it. `UserError` for
    an attribute without labels, and if no triplet is complete.
    """
    folder, source = Path(folder), Path(source)
    if missing := [name for name in attributes if name not in photos]:
        raise UserError(f"the photographs are not labelled with {missing[0]}: use a classifier that knows it")
    plan = {"attributes": list(attributes), "sampling": sampling.model_dump(), "seed": seed, "tries": tries}
    plan |= {"photographs": hashed([[row, content(source / row["path"])] for row in photos.to_dict("records")])}
    plan |= {"model": model_identity(pipe), "vision": vision.identity()}
    if (folder / "plan.json").is_file():
        refuse_another(read_json(folder / "plan.json"), plan, str(folder), "delete it or choose another folder")
    write_json(folder / "plan.json", plan)
    done = []
    for number, row in enumerate(tqdm(list(photos.itertuples()), "triplets")):
        path = folder / "done" / f"{number}.json"
        if not path.is_file():
            own = {name: getattr(row, name) for name in attributes}
            made = _triplet(pipe, vision, number, row.caption, own, sampling, seed, tries, write)
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
            f"of {len(photos)} photographs no triplet is whole after {tries} tries each: raise tries, or check that "
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
    """Read the metadata of triplets; `UserError` if it is missing, or if a triplet lacks a member or a file."""
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


def _triplet(pipe, vision, number, caption, own, sampling, seed, tries, write) -> dict:
    """Positive and negative of one photograph: images, metadata lines, and the number of rejected images."""
    lines = [{"file_name": f"{number}_anchor.png", "text": caption, "triplet": number, "role": "anchor", **own}]
    wanted = {"positive": other_classes(own, seed, number), "negative": own}
    pictures, rejected = {}, 0
    for role, classes in wanted.items():
        named = sorted(classes, key=WORD_ORDER.index)
        words = " ".join(get_attribute(name).words[get_attribute(name).index(classes[name])] for name in named)
        prompt = write(caption, words)
        for attempt in range(tries):
            start = noise(pipe, f"{number} {role} {prompt}", [attempt], seed)
            final = sample(pipe, prompt, start, steps=sampling.steps, guidance_scale=sampling.guidance_scale)
            seen, sure = vision.perceive(pipe, final, sampling.batch).confident_classes(list(classes))
            asked = [get_attribute(name).index(each) for name, each in classes.items()]
            if bool(sure[0]) and seen[0].tolist() == asked:
                with torch.no_grad():
                    pictures[role] = decode(pipe, final)[0]
                line = {"file_name": f"{number}_{role}.png", "text": prompt, "triplet": number, "role": role}
                lines.append(line | classes | {"tries": attempt + 1})
                break
            rejected += 1
    return {"whole": len(pictures) == 2, "pictures": pictures, "lines": lines, "rejected": rejected}
