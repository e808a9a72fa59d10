"""Build the mini world from nothing: draw portraits, train every model, write `data/mini-sd/` in the diffusers layout.

Every stage stores its result in the work folder and is skipped if the result exists; a training resumes from its last
checkpoint. So `make mini-sd` may be killed and restarted at any time.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, interpolate, l1_loss, mse_loss
from transformers import CLIPTextModel

from fairnb.diffusion.pipeline import pick_device
from fairnb.files import write_atomically, write_json
from fairnb.miniworld import models
from fairnb.miniworld.dataset import Portraits, draw_dataset
from fairnb.miniworld.world import names_attribute, world
from fairnb.training.loop import run_updates
from fairnb.vision.classifiers import Classifier
from fairnb.vision.encoders import Clip
from fairnb.vision.faces import crop_faces

CHECKPOINT_EVERY = 250
COMPILED_FROM = 1_000  # steps of the U-Net
FACE_SIZE = 48
SEED = 2026


@dataclass(frozen=True)
class Steps:
    """The number of portraits, and of training steps of each model."""

    pictures: int = 24_000
    classifier: int = 1_500
    clip: int = 2_000
    vae: int = 2_200
    # Rounds: each starts from the moving average of the one before. The second number says how often a caption that
    # names an attribute is drawn for one that names none: a name has to win over what the occupation suggests.
    unet: tuple[tuple[int, float], ...] = ((6_000, 1), (6_000, 1), (3_000, 3))


FULL = Steps()


PARTS = ("clip", "vae", "guide", "judge", "occupation")  # trained apart from each other; the longest first


def build(work: Path, out: Path, steps: Steps = FULL, device: str | None = None) -> None:
    """Draw portraits and train all models in `work`, then write the model folder `out`."""
    device = pick_device(device)
    print(f"mini world on {device}: {steps}")
    data = draw_dataset(work / "portraits", steps.pictures, SEED)
    train_one = partial(train_part, work=work, steps=steps, device=device)
    if device.type == "cpu":  # two trainings of one thread each take less time than one after the other of two threads
        with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(train_one, PARTS))
    clip, vae, *classifiers = (train_one(name, data=data) for name in PARTS)
    words = models.tokenizer(work / "tokenizer")
    text = CLIPTextModel(clip.config.text_config).to(device).eval()
    text.load_state_dict(clip.text_model.state_dict())
    latents = standardise(vae, *encode_all(vae, data))
    torch.manual_seed(SEED + 2)
    unet = models.unet(text.config.hidden_size).to(device)
    for number, (length, named) in enumerate(steps.unet):
        train_round = partial(train_unet, number, unet, text, words, latents, data, work, length, named)
        keep(work / f"unet-{number}.safetensors", unet, train_round)
    export(out, unet, vae, text, words, clip, dict(zip(PARTS[2:], classifiers, strict=True)))


def train_part(
    name: str, work: Path, steps: Steps, device: torch.device, data: Portraits | None = None
) -> torch.nn.Module:
    """Train one of `PARTS` on the portraits in `work` (read there, or given as `data`), or load it if it is trained."""
    if data is None:
        data = draw_dataset(work / "portraits", steps.pictures, SEED)
    torch.manual_seed(SEED + PARTS.index(name))
    path = work / f"{name}.safetensors"
    if name == "clip":
        words = models.tokenizer(work / "tokenizer")
        model = models.clip(words).to(device)
        return keep(path, model, lambda: train_clip(Clip(model, words).to(device), data, work, steps.clip))
    if name == "vae":
        model = models.vae().to(device)
        return keep(path, model, lambda: train_vae(model, data, work, steps.vae))
    return train_classifier(name, path, data, steps.classifier, device)


def face_batch(data: Portraits, rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Augmented face crops: jittered boxes, flips, varied light and sharpness, to resemble generated faces."""
    boxes = data.boxes(rows)
    size = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    boxes = boxes + rng.normal(0, 0.04, boxes.shape).astype(np.float32) * size
    crops = crop_faces(data.images(rows), boxes, FACE_SIZE)
    return augment(crops, rng)


def augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Flip half, blur half (by scaling down and up), vary brightness and contrast, add noise."""
    n = len(images)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))

    images = torch.where(draw(0, 1) < 0.5, images, images.flip(-1))
    small = interpolate(images, scale_factor=float(rng.uniform(0.4, 0.9)), mode="bilinear", antialias=True)
    blurred = interpolate(small, images.shape[-2:], mode="bilinear")
    images = torch.where(draw(0, 1) < 0.5, images, blurred)
    noise = torch.from_numpy(rng.normal(0, 1, images.shape).astype(np.float32)) * draw(0, 0.06)
    return images * draw(0.85, 1.15) + draw(-0.1, 0.1) + noise


def train_classifier(name: str, path: Path, data: Portraits, steps: int, device: torch.device) -> torch.nn.Module:
    """Train the guide, the judge (of another architecture, seed and half of the data) or the occupation classifier."""
    people = data.table["face"] & (data.table["kind"] != "subject")
    half = np.arange(len(data.table)) < len(data.table) // 2
    if name == "occupation":
        model, rows = models.resnet(models.occupation_labels(), 64), np.arange(len(data.table))
    elif name == "guide":
        model, rows = models.resnet(models.attribute_labels(), FACE_SIZE), np.flatnonzero(people & half)
    else:
        model, rows = models.convnext(models.attribute_labels(), FACE_SIZE), np.flatnonzero(people & ~half)
    classifier = Classifier(model.to(device))
    column = {"occupation": "noun"}
    truth = {
        of: np.array([classes.index(c) if c in classes else -1 for c in data.table[column.get(of, of)]])
        for of, classes in classifier.classes.items()
    }
    seed = 11 + PARTS.index(name)

    def loss(rng, _):
        chosen = rng.choice(rows, 64)
        images = augment(data.images(chosen), rng) if name == "occupation" else face_batch(data, chosen, rng)
        logits = classifier(images.to(device))
        return sum(cross_entropy(logits[k], torch.from_numpy(v[chosen]).to(device)) for k, v in truth.items())

    settings = {"steps": steps, "learning_rate": 2e-3, "folder": path.parent, "seed": seed, "ema": 0.995}
    return keep(path, model, lambda: train(name, model, loss, **settings))


def train_clip(clip: Clip, data: Portraits, work: Path, steps: int) -> None:
    """Contrastive training on images and captions (Radford et al., 2021).

    Where the bias is, the captions do not name the attribute. So mini-clip learns the bias like CLIP: the text states
    of "a photo of a pilot" lean towards those of "a photo of a male pilot" (see the card). Equal captions in a batch
    count as pairs.
    """
    device = clip.mean.device
    captions = data.table["caption"].tolist()

    def loss(rng, _):
        rows = rng.integers(len(captions), size=96)
        texts = [captions[row] for row in rows]
        _, group = np.unique(texts, return_inverse=True)
        same = torch.from_numpy(group[:, None] == group[None]).float().to(device)
        target = same / same.sum(1, keepdim=True)
        images = data.images(rows).to(device)
        scale = clip.model.logit_scale.exp().clamp(max=100)
        similarity = clip.image_features(images) @ clip.text_features(texts).T * scale
        return (cross_entropy(similarity, target) + cross_entropy(similarity.T, target)) / 2

    train("clip", clip.model, loss, steps=steps, learning_rate=1e-3, folder=work, seed=21, ema=0.998)


def train_vae(vae, data: Portraits, work: Path, steps: int) -> None:
    """Train the VAE: L1 loss on pixels and on their differences, which keeps edges sharp, and a small KL term."""
    device = vae.device
    with torch.no_grad():  # almost no noise on the latents at first, or colours are learned last
        vae.quant_conv.bias[vae.config.latent_channels :] = -6

    def loss(rng, generator):
        images = data.images(rng.integers(len(data.table), size=16)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            seen = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        edges = l1_loss(seen.diff(dim=-1), images.diff(dim=-1)) + l1_loss(seen.diff(dim=-2), images.diff(dim=-2))
        return l1_loss(seen, images) + edges + 1e-7 * posterior.kl().float().mean()

    train("vae", vae, loss, steps=steps, learning_rate=2e-3, folder=work, seed=22, ema=0.998)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster here: on a GPU, and on a CPU with instructions for it."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return able.get("amx_bf16", False) or able.get("avx512_bf16", False)
    return device.type == "cuda"


@torch.no_grad()
def encode_all(vae, data: Portraits) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [N, 8, 16, 16] of the latents of every portrait."""
    chunks = np.array_split(np.arange(len(data.table)), max(1, len(data.table) // 100))
    posteriors = [vae.encode(data.images(rows).to(vae.device)).latent_dist for rows in chunks]
    return torch.cat([p.mean.cpu() for p in posteriors]), torch.cat([p.std.cpu() for p in posteriors])


@torch.no_grad()
def standardise(vae, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every latent channel the mean 0 and the variance 1, in the VAE and in `mean` and `deviation` [N, 8, 16, 16].

    Sampling starts from N(0, 1) in every channel, and Stable Diffusion's schedule keeps a little of the image in its
    last step. A pipeline knows one `scaling_factor` for all channels, so the change goes into the 1×1 convolutions on
    both sides of the latents. Returns the new mean and deviation.
    """
    shift, scale = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    to, back = vae.quant_conv, vae.post_quant_conv
    shift_, scale_ = shift.to(to.weight), scale.to(to.weight)
    back.bias += back.weight[:, :, 0, 0] @ shift_
    back.weight *= scale_[:, None, None]
    half = len(shift)  # the rest of the channels is the logarithm of the variance
    to.weight[:half] /= scale_[:, None, None, None]
    to.bias[:half] = (to.bias[:half] - shift_) / scale_
    to.bias[half:] -= 2 * scale_.log()
    vae.register_to_config(scaling_factor=1.0)
    shift, scale = shift[:, None, None], scale[:, None, None]
    return (mean - shift) / scale, deviation / scale


def train_unet(
    number: int,
    unet,
    text,
    words,
    latents: tuple[torch.Tensor, torch.Tensor],
    data: Portraits,
    work: Path,
    steps: int,
    named: float,
) -> None:
    """Denoising training as in Stable Diffusion: predict the noise, with 12 % empty captions for guidance and a frozen
    text encoder. `number` is that of the round, from 0; `named` is explained in `Steps`.

    The loss of a timestep is divided by the square root of its signal-to-noise ratio. The plain loss falls about like
    that root, so the weighted loss is similar at every timestep (the aim of Karras et al., 2024, who learn the
    weights). Otherwise the nearly clean timesteps, where a caption hardly matters, would dominate the noisy ones, where
    it decides who is in the image.
    """
    device = unet.device
    mean, deviation = latents
    schedule = DDPMScheduler(**{k: models.scheduler().config[k] for k in ("beta_start", "beta_end", "beta_schedule")})
    signal = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weight = (1 / signal.sqrt()).clamp(max=6)
    weight = (weight / weight.mean()).to(device)
    captions = data.table["caption"].tolist()
    chance = np.where([names_attribute(caption) for caption in captions], named, 1.0)
    chance /= chance.sum()
    half = fast_bfloat16(device)
    if device.type == "cpu":
        unet.to(memory_format=torch.channels_last)
        if half:  # on a CPU torch's attention takes half of a step to go backwards in bfloat16
            unet.set_attn_processor(AttnProcessor())
    # Compiling takes minutes and then a third off every step, on a CPU with a C++ compiler.
    predict = torch.compile(unet) if device.type == "cpu" and steps > COMPILED_FROM and which("g++") else unet

    def loss(rng, generator):
        rows = rng.choice(len(captions), size=32, p=chance)
        texts = ["" if rng.random() < 0.12 else captions[row] for row in rows]
        tokens = words(texts, padding="max_length", max_length=models.LENGTH, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = text(tokens.input_ids.to(device))[0]
        noise, noise_2 = (torch.randn(len(rows), *mean.shape[1:], generator=generator) for _ in range(2))
        clean = mean[rows] + deviation[rows] * noise_2
        timesteps = torch.from_numpy(rng.integers(schedule.config.num_train_timesteps, size=len(rows)))
        noisy = schedule.add_noise(clean, noise, timesteps).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            predicted = predict(noisy, timesteps.to(device), states).sample
        error = mse_loss(predicted.float(), noise.to(device), reduction="none").mean((1, 2, 3))
        return (error * weight[timesteps.to(device)]).mean()

    name, seed = f"unet-{number}", 23 + number
    train(name, unet, loss, steps=steps, learning_rate=1e-3, folder=work, seed=seed, ema=0.999)


def export(out: Path, unet, vae, text, words, clip, classifiers: dict[str, torch.nn.Module]) -> None:
    """Write the folder for `StableDiffusionPipeline.from_pretrained`; U-Net, VAE and CLIP in float16."""
    pipe = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=text.cpu(),
        tokenizer=words,
        unet=unet.cpu().to(memory_format=torch.contiguous_format).half(),
        scheduler=models.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(out)
    clip.cpu().half().save_pretrained(out / "clip")
    words.save_pretrained(out / "clip")
    for name, model in classifiers.items():
        model.cpu().save_pretrained(out / name)
    write_json(out / "world.json", {**world(), "seed": SEED})
    print(f"wrote {out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


def train(
    name: str,
    module: torch.nn.Module,
    loss: Callable[[np.random.Generator, torch.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    ema: float,
) -> list[float]:
    """Minimise `loss(numpy rng, torch generator)` over the module's weights, and leave their moving average in it.

    AdamW with a short warm-up and a cosine decay. The randomness of a step follows from (seed, step) alone, so a killed
    run that resumes from its last checkpoint ends with the same weights. Returns the loss of every step.
    """
    module.train().requires_grad_(True)
    weights = list(module.parameters())
    optimizer = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    average = EMAModel(weights, decay=ema)

    def gradient(step: int) -> dict:
        value = loss(np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step))
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        return {"loss": value.item()}

    progress = run_updates(
        weights,
        gradient,
        optimizer,
        schedule,
        average,
        folder / f"{name}.ckpt",
        name=name,
        identity={"steps": steps, "learning_rate": learning_rate, "seed": seed, "ema": ema},
        updates=steps,
        checkpoint_every=CHECKPOINT_EVERY,
        buffers=list(module.buffers()),
    )
    average.copy_to(weights)
    module.eval().requires_grad_(False)
    return [row["loss"] for row in progress.history]


def keep(path: Path, module: torch.nn.Module, make: Callable[[], object]) -> torch.nn.Module:
    """Load the weights at `path` into the module; if they are not there yet, let `make()` train them first."""
    if path.exists():
        module.load_state_dict(load_file(path))
        return module.eval().requires_grad_(False)
    make()
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary))
    return module
