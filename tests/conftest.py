"""A random-weights Stable Diffusion built in seconds (`tiny_pipe`), and the shipped mini-sd (`mini`)."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fairnb.diffusion.pipeline import load_pipeline
from fairnb.profiles import load_profile
from fairnb.vision.classifiers import Classifier, load_classifier
from fairnb.vision.perception import VisionModels, load_vision_models

MINI = Path(__file__).parents[1] / "data" / "mini-sd"
WORDS = """
a an photo of male female old young light dark medium brown skinned doctor nurse teacher chef pilot farmer
house tree boat in at by the garden night sea city
"""


LONG = ("tests/training", "tests/cli", "tests/test_wheel", "tests/test_other_models", "tests/adapters/test_h_guidance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks first, one after the other, beside them the other worker does all the rest, the long files first.

    So the two workers end together.
    """
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, not item.nodeid.startswith(LONG)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return build_tiny(tmp_path_factory.mktemp("tokenizer"))


def build_tiny(folder: Path, width: int = 32, prediction: str = "epsilon", **unet) -> StableDiffusionPipeline:
    """A random Stable Diffusion: `width` of the text states, what its U-Net predicts, further options of the U-Net."""
    torch.set_num_threads(1)  # on tensors this small a second thread costs time, on a busy machine thirtyfold
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        norm_num_groups=8,
        sample_size=32,
    )
    options = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": width,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    unet = UNet2DConditionModel(**options | unet)
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        algorithm_type="dpmsolver++",
        prediction_type=prediction,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    for part in (unet, vae, text_encoder):
        part.eval().requires_grad_(False)
    return pipe


@pytest.fixture
def tiny_pipe(tiny_base: StableDiffusionPipeline) -> Callable[..., StableDiffusionPipeline]:
    """`tiny_pipe(dtype=torch.float32)` gives a fresh copy: 8x8 latents, 32x32 images, on the CPU."""

    return lambda dtype=torch.float32: _copy(tiny_base).to(dtype)


def _copy(base: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A pipeline with copies of the models, so that a test may change them."""
    parts = {
        name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
        for name, part in base.components.items()
    }
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def mini_base() -> StableDiffusionPipeline:
    """The shipped mini-sd, loaded once; tests take the copy `mini`."""
    if not (MINI / "model_index.json").is_file():
        pytest.skip("data/mini-sd is not built yet (make mini-sd)")
    return load_pipeline(MINI, device="cpu")


@pytest.fixture
def mini(mini_base: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A copy of the shipped mini-sd on the CPU."""
    return _copy(mini_base)


@pytest.fixture(scope="session")
def vision() -> VisionModels:
    """The vision models of the profile smoke, loaded once."""
    return load_vision_models(load_profile("smoke"), "cpu")


@pytest.fixture(scope="session")
def judge() -> Classifier:
    """The judge of the profile smoke, loaded once."""
    return load_classifier(load_profile("smoke").judge)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges spell out WORDS from left to right; anything else falls back to letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["-"]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS.split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            if (pair := f"{pieces[0]} {pieces[1]}") not in merges:
                merges.append(pair)
            pieces[:2] = ["".join(pieces[:2])]
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=32)
