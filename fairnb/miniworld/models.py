"""The architectures of the mini world: every part of Stable Diffusion, a hundred times smaller, in the same formats."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from fairnb.diffusion.pipeline import WHOLE_WORDS
from fairnb.miniworld.world import ATTRIBUTES, OCCUPATIONS, SUBJECTS, vocabulary

LENGTH = 24  # tokens; the longest caption needs 18
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer with byte-pair merges learned on the words of the captions: one token per known word."""
    letters = sorted("abcdefghijklmnopqrstuvwxyz0123456789'-,.!?")
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    learned = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trainer = BpeTrainer(  # numbers letters as they are listed, or else by chance, which breaks ties between merges
        vocab_size=4000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=alphabet,
    )
    learned.train_from_iterator(vocabulary(), trainer)
    state = json.loads(learned.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in state["merges"]]
    tokens = [*dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)]), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*files, unk_token=END, pad_token=END, model_max_length=LENGTH, **{WHOLE_WORDS: vocabulary()})


def clip(words: CLIPTokenizer) -> CLIPModel:
    """mini-clip: a ViT on 8×8 patches and a two-layer text encoder, which mini-sd uses too."""
    text = {
        "vocab_size": len(words),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def vae() -> AutoencoderKL:
    """64×64×3 → 16×16×8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
    )


def unet(text_width: int) -> UNet2DConditionModel:
    """Stable Diffusion's U-Net with three resolutions and one layer a block."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(48, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers reads this as the number of heads, as in Stable Diffusion 1.x
        norm_num_groups=16,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (2M) with Stable Diffusion's noise schedule, with evenly spaced steps."""
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
    )


def attribute_labels() -> list[str]:
    """ "gender:female", … for every class of every attribute."""
    return [f"{attribute.name}:{name}" for attribute in ATTRIBUTES for name in attribute.classes]


def occupation_labels() -> list[str]:
    """The content of a whole image: an occupation, a person without one, or a subject without people."""
    return [f"occupation:{name}" for name in (*OCCUPATIONS, "person", *SUBJECTS)]


def resnet(labels: list[str], size: int, widths: tuple[int, ...] = (24, 48, 96)) -> PreTrainedModel:
    """A small ResNet: the guide, and the occupation classifier."""
    config = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[1] * len(widths),
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        image_size=size,
    )
    return ResNetForImageClassification(config)


def convnext(labels: list[str], size: int) -> PreTrainedModel:
    """A small ConvNeXt: the judge, of another family than the guide, so that they make different mistakes."""
    config = ConvNextV2Config(
        patch_size=3,
        hidden_sizes=[24, 48, 96],
        depths=[1, 2, 1],
        num_stages=3,
        image_size=size,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return ConvNextV2ForImageClassification(config)
