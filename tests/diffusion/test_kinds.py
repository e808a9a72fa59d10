"""Every kind of model and scheduler is drawn as diffusers draws it, or refused, from a folder and a hub id alike."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers

from fairnb.diffusion.gradients import adjusted_backward, full_backward, sample_with_gradient, trajectory
from fairnb.diffusion.kinds import SCHEDULERS, TWO_CALLS, check_pipeline
from fairnb.diffusion.pipeline import load_pipeline
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from tests.conftest import build_tiny

PROMPT = "a photo of a doctor"
COMPATIBLE = sorted(kind.name for kind in KarrasDiffusionSchedulers)
OTHERS = ["LCMScheduler", "TCDScheduler", "DDIMInverseScheduler", "EDMDPMSolverMultistepScheduler", "IPNDMScheduler"]
OPTIONS = [
    ("DDIMScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
    ("DDIMScheduler", {"clip_sample": True}),
    ("DDIMScheduler", {"thresholding": True}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "solver_type": "heun"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "euler_at_final": True}),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True, "timestep_spacing": "leading"}),
    ("LMSDiscreteScheduler", {"use_beta_sigmas": True}),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
    ("UniPCMultistepScheduler", {"solver_type": "bh2", "solver_order": 3}),
]


@pytest.fixture(scope="module")
def saved(tiny_base, tmp_path_factory):
    """A folder of the hub's cache with the tiny model as `some/model`."""
    folder = tmp_path_factory.mktemp("hub") / "models--some--model"
    tiny_base.save_pretrained(folder / "snapshots" / "0123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    return folder


@pytest.fixture
def both(saved, tmp_path, monkeypatch):
    """`both({"scheduler/scheduler_config.json": {...}})`: a folder with changed keys, and the id of the same files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(saved, tmp_path / saved.name)
    folder = tmp_path / saved.name / "snapshots" / "0123"

    def change(changes):
        for name, values in changes.items():
            config = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(config | values))
        return folder, "some/model"

    return change


def scheduled(name, options=()):
    return {
        "model_index.json": {"scheduler": ["diffusers", name]},
        "scheduler/scheduler_config.json": {"clip_sample": False} | dict(options),
    }


def drawn(pipe, latents, **options):
    """What diffusers draws, in 4 steps at guidance scale 3."""
    how = {"num_images_per_prompt": len(latents), "num_inference_steps": 4, "guidance_scale": 3.0} | options
    return pipe(PROMPT, latents=latents, **{"output_type": "latent"} | how).images


@pytest.mark.parametrize("name", COMPATIBLE + OTHERS)
def test_a_scheduler_draws_what_diffusers_draws_or_is_refused(both, name):
    for model in both(scheduled(name)):
        if name not in SCHEDULERS:
            with pytest.raises(UserError, match=f"{name} draws noise of its own or is not .* in model_index.json"):
                load_pipeline(model, device="cpu")
            continue
        pipe = load_pipeline(model, device="cpu")
        assert type(pipe.scheduler).__name__ == name
    if name in SCHEDULERS:
        latents = noise(pipe, PROMPT, range(2), seed=0)
        own = sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0)
        torch.testing.assert_close(own, drawn(pipe, latents), atol=1e-6, rtol=1e-6)
        assert torch.equal(sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0), own)
        alone = sample(pipe, PROMPT, latents[1:], steps=4, guidance_scale=3.0)
        torch.testing.assert_close(alone, own[1:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value))
def test_its_options_are_drawn_as_by_diffusers(tiny_pipe, name, options, prediction):
    pipe = tiny_pipe()
    options = options | {"prediction_type": prediction}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    latents = noise(pipe, PROMPT, [0], seed=0)
    own = sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0)
    expected = drawn(pipe, latents)
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-6, equal_nan=True)
    if not expected.isfinite().all():
        assert options.get("rescale_betas_zero_snr") and prediction == "epsilon"
        with pytest.raises(UserError, match="pixels that are no numbers"):
            decode(pipe, own)


def test_what_diffusers_names_compatible_is_complete():
    assert sorted(kind.__name__ for kind in DPMSolverMultistepScheduler().compatibles) == COMPATIBLE
    assert set(SCHEDULERS) <= set(COMPATIBLE) and all(hasattr(diffusers, name) for name in OTHERS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"scheduler/scheduler_config.json": {"algorithm_type": "sde-dpmsolver++"}},
            'write "dpmsolver\\+\\+" in sched',
        ),
        ({"scheduler/scheduler_config.json": {"prediction_type": "sample"}}, "has epsilon or v_prediction"),
        ({"scheduler/scheduler_config.json": {"prediction_type": "flow_prediction"}}, "is flow_prediction"),
        ({"scheduler/scheduler_config.json": {"use_flow_sigmas": True}}, "use_flow_sigmas .* is True"),
        (scheduled("EulerDiscreteScheduler", {"timestep_type": "continuous"}), "timestep_type .* is continuous"),
        (
            {"model_index.json": {"_class_name": "StableDiffusionInpaintPipeline"}},
            "is a StableDiffusionInpaintPipeline",
        ),
        ({"model_index.json": {"_class_name": ["pipeline", "Mine"]}}, "is a .*Mine"),
        ({"model_index.json": {"scheduler": []}}, "model_index.json is damaged"),
        ({"text_encoder/config.json": {"use_attention_mask": True}}, "use_attention_mask"),
        ({"unet/config.json": {"sample_size": None}}, "lacks sample_size"),
    ],
    ids=lambda value: "",
)
def test_other_kinds_are_refused(both, changes, says):
    for model in both(changes):
        with pytest.raises(UserError, match=says):
            load_pipeline(model, device="cpu")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_cond_proj_dim": 8}, "distilled with its guidance .time_cond_proj_dim in unet/config.json is 8"),
        ({"in_channels": 9}, "takes 9 channels and gives 4, but latents have 4"),
        ({"in_channels": 8}, "takes 8 channels"),
        ({"out_channels": 8}, "gives 8"),
        ({"num_class_embeds": 3}, "needs a class"),
        ({"class_embed_type": "timestep"}, "needs a class"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80,
            },
            "further embeddings",
        ),
        ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16}, "another encoder"),
        ({"cross_attention_dim": 16}, "needs prompts of width 16, but its text encoder gives 32"),
    ],
    ids=lambda value: "",
)
def test_unets_with_further_inputs_are_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        check_pipeline(build_tiny(tmp_path, **options), "it")


def test_another_kind_of_autoencoder_is_refused(tiny_pipe):
    pipe = tiny_pipe()
    pipe.vae = AutoencoderTiny()
    with pytest.raises(UserError, match="the vae of it is a AutoencoderTiny: use a AutoencoderKL"):
        check_pipeline(pipe, "it")


@pytest.mark.parametrize(
    ("unet", "vae"),
    [
        ({"sample_size": [8, 12]}, {}),
        ({"sample_size": [12, 8]}, {"scaling_factor": 1.7}),
        ({}, {"shift_factor": 0.3}),
        ({}, {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}),
        ({}, {"sample_size": [32, 48]}),
    ],
    ids=lambda value: "",
)
def test_sizes_and_autoencoders_are_decoded_as_by_diffusers(both, unet, vae):
    folder, _ = both({"unet/config.json": unet, "vae/config.json": vae})
    pipe = load_pipeline(folder, device="cpu")
    latents = noise(pipe, PROMPT, [0], seed=0)
    images = decode(pipe, sample(pipe, PROMPT, latents, steps=2, guidance_scale=3.0))
    expected = drawn(pipe, latents, num_inference_steps=2, output_type="pt")
    torch.testing.assert_close(images / 2 + 0.5, expected, atol=1e-5, rtol=1e-5)
    assert images.shape[-2:] == tuple(4 * side for side in unet.get("sample_size", [8, 8]))


def test_a_scheduler_set_afterwards_is_checked_too(tiny_pipe):
    pipe = tiny_pipe()
    latents = noise(pipe, PROMPT, [0], seed=0)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UserError, match="LCMScheduler draws noise of its own"):
        sample(pipe, PROMPT, latents, steps=3, guidance_scale=3.0)
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UserError, match="PNDMScheduler cannot sample in 2 steps"):
        sample(pipe, PROMPT, latents, steps=2, guidance_scale=3.0)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UserError, match="cannot sample in 1001 steps"):
        sample(pipe, PROMPT, latents, steps=1001, guidance_scale=3.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TWO_CALLS),
        ("PNDMScheduler", {"skip_prk_steps": False}),
        ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}),
        ("DDIMScheduler", {"clip_sample": True}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
        ("DPMSolverMultistepScheduler", {"thresholding": True}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}),
    ],
    ids=lambda value: str(value),
)
def test_the_adjusted_gradient_is_refused_where_its_factors_do_not_fit(tiny_pipe, name, options):
    pipe = tiny_pipe(torch.float64)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    weight = pipe.unet.conv_in.weight.requires_grad_()
    start, how = noise(pipe, PROMPT, [0], 0).double(), {"steps": 5, "guidance_scale": 3.0}
    traj = trajectory(pipe, PROMPT, start, **how)
    with pytest.raises(UserError, match=f"adjusted is not defined for {name}.*or gradient: full or last"):
        adjusted_backward(pipe, traj, traj.final, guidance_scale=3.0)
    (expected,) = torch.autograd.grad(sample_with_gradient(pipe, PROMPT, start, **how).sum(), weight)
    full_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=3.0)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


def test_the_ways_out_lead_out(both):
    """What the sentences advise loads, and draws the same image twice."""
    folder, hub = both(scheduled("EulerAncestralDiscreteScheduler"))
    with pytest.raises(UserError, match="EulerDiscreteScheduler in its place"):
        load_pipeline(folder, device="cpu")
    both({"model_index.json": {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}})
    assert type(load_pipeline(hub, device="cpu").scheduler).__name__ == "EulerDiscreteScheduler"
