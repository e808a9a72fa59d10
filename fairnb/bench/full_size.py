"""`python -m fairnb.bench.full_size FOLDER`: the method on a Stable Diffusion 1.5 of true size with random weights.

It measures what does not depend on the values of the weights: time, memory, and that all parts fit together. With
`--notebooks` the notebooks themselves run on it, with the smallest counts. Random weights draw no people, so the face
detector and the classifiers are replaced by such as see somebody in any picture.
"""

import argparse
import atexit
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.neuron_sets import count_neurons
from fairnb.adapters.patch import load_patch
from fairnb.diffusion.pipeline import load_pipeline, pick_device
from fairnb.experiments.notebooks import find_notebooks
from fairnb.files import root
from fairnb.memory import peak
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.prompts.sets import load_prompt_set
from fairnb.training.alignment import AlignmentRun
from fairnb.training.locate import locate
from fairnb.vision import faces
from fairnb.vision.classifiers import Classifier, load_classifier
from fairnb.vision.encoders import load_clip
from fairnb.vision.perception import VisionModels

UNET = {  # the configuration of Stable Diffusion 1.5's
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


COURSE = [*(f"{number:02d}" for number in range(13)), "15"]
# On top of the profile smoke: what a model of this size needs to be through in hours on a CPU.
SMALLEST = {
    "sampling.steps": 2,
    "sampling.batch": 2,
    "locate.k": 0.011634,
    "finetune.images": 2,
    "finetune.pool": 2,
    "finetune.part": 1,
    "finetune.gradient_steps": 1,
    "finetune.gradient_checkpointing": True,
    "evaluate.images": 2,
    "evaluate.explicit_images": 1,
}


class Middle:
    """Replaces the face detector by the middle of each image, since random weights draw no face."""

    def detect(self, pictures):
        side = pictures.shape[1]
        box = np.array([[side / 4, side / 4, 3 * side / 4, 3 * side / 4]], np.float32)
        return [box] * len(pictures), [np.ones(1)] * len(pictures)


def anybody(self: Classifier, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Replaces a classifier's logits: the brightest of as many upright stripes as there are classes, clearly.

    Differentiable, and both sure and different for pictures of random weights.
    """
    logits = {}
    for attribute, classes in self.classes.items():
        bright = torch.nn.functional.adaptive_avg_pool1d(images.mean((1, 2))[:, None], len(classes))[:, 0]
        logits[attribute] = 6 * (bright - bright.mean(1, keepdim=True)) / (bright.std(1, keepdim=True) + 1e-9)
    return logits


def stand_in() -> None:
    """Put `Middle` and `anybody` in the place of detector and classifiers, in all modules of this process."""
    original = faces.load_detector
    for module in list(sys.modules.values()):
        if getattr(module, "load_detector", None) is original:
            module.load_detector = lambda *_, **__: Middle()
    Classifier.forward = anybody


def note_peak(path: str) -> None:
    """Write the most memory (MB) that this process has held, of the GPU if there is one, at its end."""

    def write() -> None:
        used = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
        Path(path).write_text(json.dumps({"process": peak(), "gpu": used}))

    atexit.register(write)


def run_notebooks(numbers: list[str], profile: str, changes: dict, output: Path) -> dict[str, dict]:
    """Run notebooks with the stand-ins, each in a process of its own; minutes, memory and the error of each."""
    overrides = changes | {"output": str(output.absolute())}
    table = {}
    for path in find_notebooks(numbers):
        ipython, executed = output / "ipython", output / "notebooks" / path.name
        (ipython / "profile_default" / "startup").mkdir(parents=True, exist_ok=True)
        executed.parent.mkdir(parents=True, exist_ok=True)
        noted = output / "peak.json"
        startup = "import fairnb.figures.widgets\nfrom fairnb.bench import full_size\n"
        startup += f"full_size.stand_in()\nfull_size.note_peak({str(noted)!r})\n"
        (ipython / "profile_default" / "startup" / "stand_in.py").write_text(startup)
        settings = output / "parameters.yaml"
        settings.write_text(yaml.safe_dump({"profile": profile, "overrides": overrides}))
        command = [sys.executable, "-m", "papermill", str(path), str(executed), "-k", "python3", "-f", str(settings)]
        command += ["--no-progress-bar", "--cwd", str(path.parent)]
        environment = os.environ | {"IPYTHONDIR": str(ipython), "FAIRNB_HEADLESS": "1"}
        noted.unlink(missing_ok=True)
        started = time.perf_counter()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        row = {"minutes": round((time.perf_counter() - started) / 60, 1)}
        row |= json.loads(noted.read_text()) if noted.is_file() else {}
        last = [line for line in ended.stderr.splitlines() if line.strip()][-1:]
        row["error"] = " ".join(last) if ended.returncode else ""
        table[path.stem] = row
        print(path.stem, json.dumps(row), flush=True)
    return table


def build(folder: Path, latents: int = 64) -> None:
    """Write a pipeline with SD 1.5's configurations and random weights (2.1 GB in float16).

    `latents`: their side; 64 as published, 32 draws in a quarter of the time. Only the tokenizer differs: it is
    mini-sd's, with a few of the 49,408 tokens that the text encoder provides.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(root() / "data" / "mini-sd" / "tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(**UNET | {"sample_size": latents})
    vae = AutoencoderKL(
        sample_size=8 * latents,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": tokenizer}
    pipe = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)


def measure(folder: Path, dtype: torch.dtype) -> dict:
    """Seconds and peak memory of locating, one update, and the patch; asserts that all results are finite."""
    device = pick_device()
    mini = load_profile("mini")
    words = load_prompt_set(mini.prompts)
    figures = {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
    clock = time.perf_counter()
    used = peak if device.type == "cpu" else lambda: torch.cuda.max_memory_allocated() / 1e6  # MB

    def note(name: str, **values) -> None:
        nonlocal clock
        now = time.perf_counter()
        figures[name] = {"seconds": round(now - clock, 1), "peak GB so far": round(used() / 1e3, 1), **values}
        tqdm.write(f"{name:<24}{json.dumps(figures[name])}")
        clock = now

    pipe = load_pipeline(folder, device=device, dtype=dtype)
    weights = sum(weight.numel() for weight in pipe.unet.parameters())
    note("load", unet_weights=weights, tensors=sum(1 for _ in pipe.unet.parameters()))
    found = locate(
        pipe,
        GENDER,
        ["doctor"],
        k=10_000_000,
        frequency=0.65,
        timestep=699,
        contents=words.contents,
        contexts=words.contexts,
        seed=0,
    ).neurons
    note("locate one occupation", neurons=count_neurons(found))
    adapter = BiasNeurons(pipe.unet, found)
    settings = mini.finetune.model_copy(
        update={
            "updates": 1,
            "images": 2,
            "part": 1,
            "pool": 2,
            "gradient_steps": 2,
            "acts_from": 0,
            "named_every": None,
            "reference": "original",
            "confidence": 0.01,
            "gradient_checkpointing": True,
        }  # fmt: skip
    )
    sampling = mini.sampling.model_copy(update={"steps": 2, "batch": 1, "guidance_scale": 7.5})
    vision = VisionModels(Middle(), load_classifier(mini.guide, device), load_clip(mini.clip, device))
    run = AlignmentRun(pipe, adapter, vision, {GENDER.name: [0.5, 0.5]}, settings, sampling, seed=0)
    history = run.train(["doctor"], [], folder / "run")
    assert np.isfinite(history.loss).all() and history.faceless.sum() == 0
    note("one update of 2 images", loss=round(float(history.loss.iloc[0]), 3))
    path = folder / "run" / "patch.safetensors"
    patch = load_patch(path, pipe)
    changes = [tensor for name, tensor in load_file(path).items() if name.endswith(".values")]
    assert all(torch.isfinite(change).all() for change in changes) and any(change.any() for change in changes)
    note("patch: write and read", megabytes=round(path.stat().st_size / 1e6, 1))
    patch.apply(pipe, 0.5)
    patch.remove(pipe)
    patch.merge(pipe)
    assert all(torch.isfinite(weight).all() for weight in pipe.unet.parameters())
    note("apply, remove, merge")
    return figures


def main() -> None:
    """Build the folder if it is missing, measure, and write the figures into it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the random Stable Diffusion 1.5")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--notebooks", nargs="*", metavar="NN", help="run these, or 00 to 12 and 15, instead")
    parser.add_argument("--latents", type=int, default=64, help="side of the latents; 32 is faster")
    arguments = parser.parse_args()
    if not (arguments.folder / "model_index.json").is_file():
        build(arguments.folder, arguments.latents)
    if arguments.notebooks is not None:
        changes = SMALLEST | {"model": str(arguments.folder.absolute()), "dtype": arguments.dtype}
        table = run_notebooks(arguments.notebooks or COURSE, "smoke", changes, arguments.folder / "course")
        (arguments.folder / "notebooks.json").write_text(json.dumps(table, indent=2))
        return
    figures = measure(arguments.folder, getattr(torch, arguments.dtype))
    (arguments.folder / f"figures_{arguments.dtype}.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
