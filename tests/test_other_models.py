"""Models that are not mini-sd: Stable Diffusion 2.x in small, and the base in half precision, through every step."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from fairnb.adapters import neuron_sets
from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.patch import load_patch
from fairnb.bench.full_size import Middle
from fairnb.diffusion.pipeline import load_pipeline, save_pipeline
from fairnb.diffusion.sampling import noise, sample
from fairnb.experiments.audit import audit
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.prompts.sets import load_prompt_set, prompt_rows
from fairnb.prompts.templates import photo_of
from fairnb.training import locate
from fairnb.training.alignment import AlignmentRun
from fairnb.vision.classifiers import load_classifier
from fairnb.vision.encoders import load_clip
from fairnb.vision.perception import VisionModels, load_vision_models
from tests.conftest import MINI, build_tiny

PLACE = {"contents": ["house", "tree"], "contexts": ["at night", "by the sea"]}


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A folder in the shape of Stable Diffusion 2.x: wider text states, linear projections, heads of one width,
    v-prediction."""
    folder = tmp_path_factory.mktemp("second")
    shape = {"use_linear_projection": True, "attention_head_dim": [1, 2]}
    pipe = build_tiny(folder, width=48, prediction="v_prediction", **shape)
    return save_pipeline(pipe, folder / "model")


def test_the_second_generation_goes_through_every_step(second, tmp_path):
    P = load_profile("smoke", {"device": "cpu"})
    pipe, plain = load_pipeline(second, device="cpu"), StableDiffusionPipeline.from_pretrained(second)
    plain.set_progress_bar_config(disable=True)
    prompt, start = "a photo of a doctor", noise(pipe, "a photo of a doctor", [0, 1], 0)
    how = {"num_inference_steps": 3, "guidance_scale": 3.0, "num_images_per_prompt": 2, "output_type": "latent"}
    expected = plain(prompt, latents=start, **how).images
    torch.testing.assert_close(sample(pipe, prompt, start, steps=3, guidance_scale=3.0), expected, atol=1e-4, rtol=1e-4)

    jobs = ["doctor", "nurse", "pilot"]
    found = locate.locate(pipe, GENDER, jobs, k=400, frequency=0.3, timestep=699, seed=0, **PLACE).neurons
    assert neuron_sets.count_neurons(found) > 20

    vision = VisionModels(Middle(), load_classifier(P.guide), load_clip(P.clip))
    adapter = BiasNeurons(pipe.unet, found)
    changes = {"updates": 2, "acts_from": 0, "confidence": 0.01, "named_every": None, "reference": "original"}
    run = AlignmentRun(
        pipe, adapter, vision, {"gender": [0.5, 0.5]}, P.finetune.model_copy(update=changes), P.sampling, seed=0
    )
    history = run.train([photo_of(job) for job in jobs[:2]], [], tmp_path)
    assert history.loss.notna().all()
    values = load_file(tmp_path / "patch.safetensors")
    assert any(value.any() for name, value in values.items() if name.endswith(".values"))

    patch = load_patch(tmp_path / "patch.safetensors", pipe)
    patch.apply(pipe, 0.5)
    patch.remove(pipe)
    torch.testing.assert_close(sample(pipe, prompt, start, steps=3, guidance_scale=3.0), expected, atol=1e-4, rtol=1e-4)
    patch.apply(pipe)
    changed = sample(pipe, prompt, start, steps=3, guidance_scale=3.0)
    assert not torch.allclose(changed, expected, atol=1e-4)
    patch.merge(pipe)
    merged = StableDiffusionPipeline.from_pretrained(save_pipeline(pipe, tmp_path / "merged"))
    merged.set_progress_bar_config(disable=True)
    torch.testing.assert_close(merged(prompt, latents=start, **how).images, changed, atol=1e-4, rtol=1e-4)

    rows = prompt_rows(load_prompt_set(P.prompts), "test").head(2)
    judge = load_classifier(P.judge)
    page = audit(pipe, rows, Middle(), judge, attributes=["gender"], images=2, folder=tmp_path / "audit", profile=P)
    assert page.stat().st_size > 10_000


def test_half_precision_finds_and_trains_nearly_the_same():
    """bfloat16 rounds to three digits: not the same set, but far from another one (two noises agree by .09)."""
    # Of two images rounding decides which one must change; of eight the gradients agree on every kind of CPU.
    few = {"sampling.steps": 3, "finetune.images": 8, "finetune.part": 8, "finetune.pool": 8}
    P = load_profile("smoke", {"device": "cpu", "seed": 0, **few})
    words = load_prompt_set(P.prompts)
    place = {"contents": words.contents, "contexts": words.contexts}
    settings = P.finetune.model_copy(update={"confidence": 0.5})
    found, gradients = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe = load_pipeline(MINI, device="cpu", dtype=dtype)
        k = round(0.2 * sum(weight.numel() for weight in pipe.unet.parameters()))
        found[dtype] = locate.locate(
            pipe, GENDER, words.split("train")[:2], k=k, frequency=0.65, timestep=699, seed=0, **place
        ).neurons
        adapter = BiasNeurons(pipe.unet, found[torch.float32], 550)
        vision = load_vision_models(P, "cpu")
        run = AlignmentRun(pipe, adapter, vision, {"gender": [0.5, 0.5]}, settings, P.sampling, seed=0)
        adapter.attach()
        run.gradient("a photo of a pilot", run.reference_model.originals("a photo of a pilot"), 0)
        assert all(delta.dtype == torch.float32 for delta in adapter.parameters())
        gradients[dtype] = torch.cat([delta.grad for delta in adapter.parameters()])
        adapter.detach()
    both = [neuron_sets.count_neurons(mix(*found.values())) for mix in (neuron_sets.intersection, neuron_sets.union)]
    assert both[0] / both[1] > 0.5
    assert torch.nn.functional.cosine_similarity(*gradients.values(), dim=0) > 0.7
