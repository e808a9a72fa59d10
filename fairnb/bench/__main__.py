"""`python -m fairnb.bench`: time and memory of this package and of the published or plain way, measured in one run."""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.h_classifiers import HClassifier
from fairnb.adapters.h_guidance import HGuidance, direction
from fairnb.adapters.h_space import recording_h
from fairnb.adapters.load import load_adapter
from fairnb.adapters.lora import LoRA
from fairnb.adapters.neuron_sets import count_neurons, save_neurons
from fairnb.bench.published import Published, literal_adjusted, literal_locate
from fairnb.diffusion.gradients import adjusted_backward, full_backward, sample_with_gradient, trajectory
from fairnb.diffusion.pipeline import encode_prompts, load_pipeline
from fairnb.diffusion.sampling import decode, noise, predict, sample
from fairnb.files import root
from fairnb.memory import peak, resident
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.prompts.sets import load_prompt_set
from fairnb.training.alignment import AlignmentRun
from fairnb.training.locate import locate
from fairnb.vision.perception import load_vision_models

PROMPT = "a photo of a doctor"
GUIDANCE = 3.0
IMAGES = 4
LOCATE = {
    "frequency": 0.65,
    "timestep": 699,
    "contents": ["house", "tree", "boat"],
    "contexts": ["in a garden", "at night", "by the sea"],
    "seed": 0,
}
OCCUPATIONS = ["doctor", "nurse"]
UPDATES, PROMPTS = 24, 8  # of the short trainings


def gradient(pipe: StableDiffusionPipeline, way: str) -> dict[int, dict[str, float]]:
    """Seconds and peak memory (MB above the loaded model) of a gradient of `IMAGES` images, per number of steps.

    It runs in a process of its own, fewest steps first, since the operating system reports only the peak so far.
    """
    pipe.unet.requires_grad_()
    latents = noise(pipe, PROMPT, range(IMAGES), seed=0)

    def checkpointed(latents: torch.Tensor, steps: int) -> None:
        literal_adjusted(pipe, PROMPT, latents, steps=steps, guidance_scale=GUIDANCE).sum().backward()

    def adjusted(latents: torch.Tensor, steps: int, used: int | None = None) -> None:
        traj = trajectory(pipe, PROMPT, latents, steps=steps, guidance_scale=GUIDANCE)
        adjusted_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=GUIDANCE, steps_used=used)

    def graph(latents: torch.Tensor, steps: int) -> None:
        sample_with_gradient(pipe, PROMPT, latents, steps=steps, guidance_scale=GUIDANCE).sum().backward()

    def full(latents: torch.Tensor, steps: int) -> None:
        traj = trajectory(pipe, PROMPT, latents, steps=steps, guidance_scale=GUIDANCE)
        full_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=GUIDANCE)

    if way == "checkpointed":
        pipe.unet.enable_gradient_checkpointing()
    run = {"checkpointed": checkpointed, "adjusted": adjusted, "graph": graph, "full": full}[way]
    run(latents[:1], 3)  # warm up the libraries
    before = resident()
    results = {}
    for steps in (10, 20, 40):
        results[steps] = {"seconds": _seconds(lambda steps=steps: run(latents, steps)), "memory": peak() - before}
        if way == "adjusted":
            results[steps]["seconds_3"] = _seconds(lambda steps=steps: adjusted(latents, steps, used=3))
    return results


def progress(way: str) -> dict[str, float]:
    """Train exp-1 of the profile mini for `UPDATES` updates, with the published gradient or ours.

    Returns seconds per update (originals excluded), and the bias on the train occupations before and after, measured by
    the guide on new noise.
    """
    P = load_profile("mini", {"device": "cpu"})
    pipe, prompts = load_pipeline(P.model, device="cpu"), load_prompt_set(P.prompts).prompts("train")[:PROMPTS]
    changes = {"updates": UPDATES, "images": 16, "part": 16, "pool": 16, "named_every": None, "validate_every": UPDATES}
    changes["gradient_checkpointing"] = way == "published"
    settings = P.finetune_of("exp-1").model_copy(update=changes)
    kind = Published if way == "published" else AlignmentRun
    vision = load_vision_models(P, "cpu")
    run = kind(pipe, LoRA(pipe, 8), vision, {"gender": [0.5, 0.5]}, settings, P.sampling, P.seed)
    run.originals.update({prompt: run.reference_model.originals(prompt) for prompt in prompts})
    fresh = dataclasses.replace(run, seed=P.seed + 1)
    before = fresh.validate(prompts)
    with tempfile.TemporaryDirectory() as folder:
        seconds = _seconds(lambda: run.train(prompts, [], folder))
        load_adapter(Path(folder) / "patch.safetensors", pipe).apply(pipe)
        after = fresh.validate(prompts)
    return {"seconds": seconds / UPDATES, "before": before, "after": after}


def main() -> None:
    """Print the table; with `--way`, print the gradient measurements of one way as JSON."""
    parser = argparse.ArgumentParser(prog="python -m fairnb.bench", description=__doc__)
    parser.add_argument("--model", default=str(root() / "data" / "mini-sd"), help="a diffusers Stable Diffusion folder")
    parser.add_argument("--way", choices=["checkpointed", "adjusted", "graph", "full"], help=argparse.SUPPRESS)
    parser.add_argument("--progress", action="store_true", help="only: one training by the published gradient and ours")
    options = parser.parse_args()
    if options.progress:
        _bench_progress()
        return
    pipe = load_pipeline(options.model, device="cpu")
    if options.way:
        print(json.dumps(gradient(pipe, options.way)))
        return
    print(f"{'':46}{'plain':>12}{'fairnb':>12}{'ratio':>9}")
    _bench_locate(pipe)
    _bench_gradient(options.model)
    _bench_generation(pipe)
    _bench_guidance(pipe)


def _bench_locate(pipe: StableDiffusionPipeline) -> None:
    """Locate neurons in both ways; then the memory of an optimiser for them and for all weights."""
    settings = {"k": sum(weight.numel() for weight in pipe.unet.parameters()) // 50, **LOCATE}
    evaluations = 0

    def counted(_: torch.nn.Module, inputs: tuple) -> None:
        nonlocal evaluations
        evaluations += len(inputs[0])

    hook = pipe.unet.register_forward_pre_hook(counted)
    with tempfile.TemporaryDirectory() as folder:
        literal = _seconds(lambda: literal_locate(pipe, GENDER, OCCUPATIONS, Path(folder), **settings))
        written = sum(file.stat().st_size for file in Path(folder).iterdir())
        published, evaluations = evaluations, 0
        start = time.perf_counter()
        located = locate(pipe, GENDER, OCCUPATIONS, **settings)
        seconds = time.perf_counter() - start
        save_neurons(located.neurons, Path(folder) / "neurons.safetensors", {})
        saved = (Path(folder) / "neurons.safetensors").stat().st_size
    hook.remove()
    _row(f"locate ({len(OCCUPATIONS)} occupations): seconds", literal, seconds)
    _row("locate: evaluations of the U-Net", published, evaluations)
    _row("locate: index files, result file (kB)", written / 1e3, saved / 1e3)

    dense = list(pipe.unet.requires_grad_().parameters())
    masks = sum(weight.numel() for weight in dense)  # one byte a weight
    dense_bytes = _optimizer_bytes(dense) + masks
    pipe.unet.requires_grad_(False)
    adapter = BiasNeurons(pipe.unet, located.neurons)
    indices_and_base = 12 * count_neurons(located.neurons)
    own_bytes = _optimizer_bytes(adapter.parameters()) + 4 * count_neurons(located.neurons) + indices_and_base
    _row(f"Adam on {count_neurons(located.neurons):,} neurons: memory (kB)", dense_bytes / 1e3, own_bytes / 1e3)


def _bench_gradient(model: str) -> None:
    """Adjusted: autograd with gradient checkpointing against stored latents, with all steps and with 3 random ones.
    Full: one graph of the chain against one step at a time."""
    ways = {}
    for way in ("checkpointed", "adjusted", "graph", "full"):
        command = [sys.executable, "-m", "fairnb.bench", "--model", model, "--way", way]
        ways[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for steps, own in ways["adjusted"].items():
        plain = ways["checkpointed"][steps]
        _row(f"adjusted gradient, {steps} steps: seconds", plain["seconds"], own["seconds"])
        _row(f"adjusted gradient, 3 of {steps} steps: seconds", plain["seconds"], own["seconds_3"])
        _row(f"adjusted gradient, {steps} steps: peak memory (MB)", plain["memory"], own["memory"])
    for steps, own in ways["full"].items():
        plain = ways["graph"][steps]
        _row(f"full gradient, {steps} steps: seconds", plain["seconds"], own["seconds"])
        _row(f"full gradient, {steps} steps: peak memory (MB)", plain["memory"], own["memory"])


def _bench_progress() -> None:
    """The same short training with the published gradient and with ours: fall of bias per minute."""
    plain, own = progress("published"), progress("ours")
    print(f"bias before {plain['before']:.3f}; after {UPDATES} updates {plain['after']:.3f}, fairnb {own['after']:.3f}")
    _row("alignment update: seconds", plain["seconds"], own["seconds"])
    pace = [60 * (run["before"] - run["after"]) / (UPDATES * run["seconds"]) for run in (plain, own)]
    print(f"{'fall of bias per minute':46}{pace[0]:12,.3f}{pace[1]:12,.3f}{pace[1] / pace[0]:8.1f}x", flush=True)


def _bench_generation(pipe: StableDiffusionPipeline) -> None:
    """`sample` and `decode` against the pipeline alone; the best of three, alternating."""
    latents = noise(pipe, PROMPT, range(2 * IMAGES), seed=0)

    def plain() -> None:
        pipe(
            PROMPT,
            latents=latents,
            num_images_per_prompt=len(latents),
            num_inference_steps=10,
            guidance_scale=GUIDANCE,
            output_type="pt",
        )

    @torch.no_grad()
    def own() -> None:
        decode(pipe, sample(pipe, PROMPT, latents, steps=10, guidance_scale=GUIDANCE))

    times = [(_seconds(plain), _seconds(own)) for _ in range(3)]
    _row(f"generate {len(latents)} images, 10 steps: seconds", *(min(column) for column in zip(*times, strict=True)))


def _bench_guidance(pipe: StableDiffusionPipeline) -> None:
    """h-guided against plain sampling; and the memory of its gradient against one with respect to the latents."""
    latents = noise(pipe, PROMPT, range(2 * IMAGES), seed=0)
    with recording_h(pipe) as seen:
        sample(pipe, PROMPT, latents, steps=10, guidance_scale=GUIDANCE)
    steps, width = torch.tensor(sorted(seen, reverse=True)).float(), seen[max(seen)].shape[1]
    weight = torch.randn(len(steps), 2, width, generator=torch.Generator().manual_seed(0))
    sure = torch.ones(len(steps))  # every step is guided
    reader = HClassifier("gender", GENDER.classes, steps, weight, torch.zeros(len(steps), 2), sure, sure)
    guidance = HGuidance([reader], {"gender": [0.5, 0.5]}, 1.0)

    def own() -> None:
        guidance.apply(pipe)
        sample(pipe, PROMPT, latents, steps=10, guidance_scale=GUIDANCE)
        guidance.remove(pipe)

    times = [
        (_seconds(lambda: sample(pipe, PROMPT, latents, steps=10, guidance_scale=GUIDANCE)), _seconds(own))
        for _ in range(3)
    ]
    _row(f"guide {len(latents)} images, 10 steps: seconds", *(min(column) for column in zip(*times, strict=True)))

    held = {"latents": 0, "h": 0, "beyond": 0}
    now = "latents"

    weights = {each.untyped_storage().data_ptr() for each in (weight, *pipe.unet.parameters())}

    def count_bytes(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:  # those exist in any case
            held[now] += tensor.nbytes
        return tensor

    def stop(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal now
        now = "h"
        direction(reader, 0, output, torch.tensor([0.5, 0.5]), "kl")
        now = "beyond"

    hook = pipe.unet.mid_block.register_forward_hook(stop)
    with torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor):
        predict(pipe, latents.requires_grad_(), torch.tensor(500), encode_prompts(pipe, [PROMPT]), 1.0)
    hook.remove()
    what = f"gradient of {len(latents)} images' classes: held (kB)"
    print(f"{what:46}{held['latents'] / 1e3:12,.2f}{held['h'] / 1e3:12,.2f}", flush=True)


def _optimizer_bytes(weights: list[torch.Tensor]) -> int:
    """Bytes of gradients and Adam's state for `weights`, after a step that changes nothing."""
    optimizer = torch.optim.Adam(weights, lr=0.0)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values()]
    held += [weight.grad for weight in weights]
    optimizer.zero_grad()
    return sum(value.nbytes for value in held)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _row(what: str, plain: float, own: float) -> None:
    print(f"{what:46}{plain:12,.2f}{own:12,.2f}{plain / own if own else float('inf'):8.1f}x", flush=True)


if __name__ == "__main__":
    main()
