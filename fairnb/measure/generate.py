"""Generate images into a folder: resumable, and the same images on any number of processes."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from fairnb.diffusion.fingerprint import model_identity
from fairnb.diffusion.pipeline import check_words, processes
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.files import one_run_in, one_shard_in, read_json, remove_leftovers, write_json
from fairnb.identity import difference, refuse_another
from fairnb.measure.images import image_path, is_whole_image, save_image
from fairnb.prompts.templates import name_class
from fairnb.shards import Shard

PLAN = "generation.json"
ROW = ("prompt_id", "prompt", "occupation", "split")


def generate(
    pipe: StableDiffusionPipeline,
    prompts: pd.DataFrame | Iterable[dict],
    *,
    images: int,
    folder: str | Path,
    seed: int,
    steps: int,
    guidance_scale: float,
    batch: int,
    negative: str = "",
    form: Literal["png", "jpg"] = "png",
    replace: bool = False,
    progress: bool = True,
    shard: Shard | None = None,
) -> Path:
    """Write `images` images of each prompt to folder/prompt_<id>/img_<j>.png (8 bit, lossless), or .jpg if that is the
    `form` (as FFD has it); return the folder.

    `prompts`: rows with prompt_id, prompt, occupation and split (`prompts.sets.prompt_rows`), optionally with `words`,
    the attribute words of each image (`draw_words`). Whole files are kept; empty or truncated ones are generated again,
    so a killed run that is started again ends with the same files. Under `torchrun` the batches are divided over the
    processes. generation.json records what the folder holds: a folder of another model or other settings is refused,
    or emptied of its images if `replace` is set. `negative` is the negative prompt of every image. A `shard` draws its
    share of the batches; other shards may draw into the same folder meanwhile.
    """
    folder = Path(folder)
    rows = _rows(prompts)
    check_words(pipe, [name_class(row["prompt"], word) for row in rows for word in {*row.get("words", [])} or {""}])
    plan = {
        "prompts": rows,
        "images": images,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "batch": batch,
        "negative": negative,
        "form": form,
        "model": model_identity(pipe),
    }
    if negative and guidance_scale <= 1:
        raise UserError(f"a negative prompt needs a guidance scale above 1, but it is {guidance_scale:g}: raise it")
    state = processes()
    # Runs that may replace the images of others share them, and wait for each other.
    alone = (
        one_shard_in(folder, shard.name, lambda: _claim(folder, plan, replace=False))
        if shard
        else one_run_in(folder, wait=replace)
    )
    with alone if state.is_main_process else nullcontext():
        if state.is_main_process and not shard:
            _claim(folder, plan, replace)
            for place in folder.glob("prompt_*"):
                remove_leftovers(place)
        state.wait_for_everyone()
        _draw(pipe, folder, plan, progress, shard)
        state.wait_for_everyone()
    return folder


def _draw(pipe: StableDiffusionPipeline, folder: Path, plan: dict, progress: bool, shard: Shard | None) -> None:
    """Draw the missing images, this process its part of the batches."""
    state, images, batch, seed = processes(), plan["images"], plan["batch"], plan["seed"]
    how = {key: plan[key] for key in ("steps", "guidance_scale", "negative")}
    # Rounding depends on the size of a batch. So a batch with a missing image is generated as a whole, and a resumed
    # run ends with the same bytes as one that was never killed.
    starts = range(0, images, batch)
    work = [(row, list(range(start, min(start + batch, images)))) for row in plan["prompts"] for start in starts]
    work = shard.of(work) if shard else work
    mine = work[state.process_index :: state.num_processes]
    for row, indices in tqdm(mine, desc="generate", unit="batch", disable=not (progress and state.is_main_process)):
        paths = [image_path(folder, row["prompt_id"], index, plan["form"]) for index in indices]
        if missing := [number for number, path in enumerate(paths) if not is_whole_image(path)]:
            latents = noise(pipe, row["prompt"], indices, seed)
            prompt = row["prompt"]
            if "words" in row:
                prompt = [name_class(prompt, row["words"][index]) for index in indices]
            with torch.no_grad():
                drawn = decode(pipe, sample(pipe, prompt, latents, **how))
            for number in missing:
                save_image(drawn[number], paths[number])


def _rows(prompts: pd.DataFrame | Iterable[dict]) -> list[dict]:
    rows = prompts.to_dict("records") if isinstance(prompts, pd.DataFrame) else list(prompts)
    if not rows:
        raise UserError("there is no prompt to generate: give at least one")
    if missing := [key for key in ROW for row in rows if key not in row]:
        raise UserError(f"a prompt row lacks '{missing[0]}': use fairnb.prompts.sets.prompt_rows")
    keys = [*ROW[1:], *(["words"] if "words" in rows[0] else [])]
    rows = [{"prompt_id": int(row["prompt_id"]), **{key: row[key] for key in keys}} for row in rows]
    ids = [row["prompt_id"] for row in rows]
    if twice := {number for number in ids if ids.count(number) > 1}:
        raise UserError(f"prompt_id {min(twice)} stands for two prompts: give each its own")
    return rows


def _claim(folder: Path, plan: dict, replace: bool) -> None:
    """Write the plan before any image; refuse a folder of another run, or empty it if `replace` is set."""
    if (folder / PLAN).is_file():
        there = read_json(folder / PLAN)
        if not difference(there, plan):
            return
        if not replace:
            refuse_another(there, plan, str(folder), "delete it or choose another folder")
        for path in folder.glob(f"prompt_*/img_*.{there.get('form', 'png')}"):
            path.unlink()
        for path in folder.glob("prompt_*"):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that fairnb did not make: choose an empty folder")
    write_json(folder / PLAN, plan)
