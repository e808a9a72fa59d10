"""A short fine-tuning run as a program, for the tests that kill it or launch it in two processes.

`python -m tests.training.finetune_run FOLDER [adapter=lora] [section.key=value ...]`; else it trains a few weights.
"""

import sys
from pathlib import Path

import torch
import yaml

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.lora import LoRA
from fairnb.diffusion.pipeline import load_pipeline, processes
from fairnb.profiles import load_profile
from fairnb.training.alignment import AlignmentRun
from fairnb.vision.perception import load_vision_models


def run(folder: Path, overrides: dict, adapter: str = "neurons") -> None:
    profile = load_profile(
        "smoke", {"device": "cpu", "finetune.updates": 4, "finetune.checkpoint_every": 1, **overrides}
    )
    pipe = load_pipeline(profile.model, device="cpu")
    neurons = {"mid_block.resnets.0.conv1.weight": torch.arange(0, 60_000, 100), "conv_out.weight": torch.arange(200)}
    vision = load_vision_models(profile, "cpu")
    made = {
        "neurons": lambda: BiasNeurons(pipe.unet, neurons, profile.finetune.acts_from),
        "lora": lambda: LoRA(pipe, 2, ("text_encoder", "unet")),
    }[adapter]()
    alignment = AlignmentRun(pipe, made, vision, {"gender": [0.5, 0.5]}, profile.finetune, profile.sampling, seed=0)
    alignment.train(["a photo of a chef", "a photo of a nurse"], ["a photo of a waiter"], folder)
    print(f"one of {processes().num_processes}")


def gender_alignment(pipe, vision):
    """An alignment of the profile smoke on a few weights, not started."""
    P = load_profile("smoke", {"device": "cpu"})
    adapter = BiasNeurons(pipe.unet, {"conv_out.weight": torch.arange(200)})
    return AlignmentRun(pipe, adapter, vision, {"gender": [0.5, 0.5]}, P.finetune, P.sampling, seed=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = {key: yaml.safe_load(value) for key, value in (a.split("=", 1) for a in sys.argv[2:])}
    run(Path(sys.argv[1]), given, given.pop("adapter", "neurons"))
