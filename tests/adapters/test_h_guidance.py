"""Guided sampling: the plain pipeline where it should be, the formula where it acts, and shares that come out."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

from fairnb.adapters.h_classifiers import HClassifier, capture_h, h_classifier_from_captured
from fairnb.adapters.h_guidance import TEMPERATURE, HGuidance, distance
from fairnb.adapters.load import load_adapter
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.measure.generate import generate
from fairnb.profiles import Sampling

PROMPT = "a photo of a doctor"
CLASSES = {"gender": ("female", "male"), "skin_tone": ("light", "medium", "brown", "dark")}


def classifier(pipe, attribute="gender", reliable=(1.0, 1.0), seed=0) -> HClassifier:
    """Random classifiers of two timesteps, of the width of the pipeline's h."""
    size = pipe.unet.config.sample_size // 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    width, count = pipe.unet.config.block_out_channels[-1] * size**2, len(CLASSES[attribute])
    weight = torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(2)
    steps = torch.tensor([900.0, 100.0])
    return HClassifier(
        attribute, CLASSES[attribute], steps, weight, torch.zeros(2, count), ones, torch.tensor(reliable)
    )


def moved(pipe, guidance, latents, **how):
    """What the mid block gives out at the first step, plain and guided: two tensors [2 N, C, y, x]."""
    seen = []
    for on in (False, True):
        if on:
            guidance.apply(pipe)
        hook = pipe.unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        sample(pipe, PROMPT, latents, **{"steps": 1, "guidance_scale": 3.0} | how)
        hook.remove()
    guidance.remove(pipe)
    return seen


def test_strength_0_and_a_guidance_taken_off_are_bitwise_the_plain_pipeline(tiny_pipe):
    pipe = tiny_pipe()
    latents = noise(pipe, PROMPT, range(4), 0)
    plain = sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0)
    guidance = HGuidance([classifier(pipe)], {"gender": [0.5, 0.5]}, 50.0)
    guidance.apply(pipe, 0.0)
    assert torch.equal(sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0), plain)
    guidance.apply(pipe)
    assert not torch.equal(sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0), plain)
    guidance.remove(pipe)
    assert torch.equal(sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0), plain)


def test_every_batch_gets_classes_of_its_own_also_in_one_step(tiny_pipe):
    pipe = tiny_pipe()
    guidance = HGuidance([classifier(pipe)], {"gender": [0.5, 0.5]}, 50.0, mode="assigned")
    one, two = noise(pipe, PROMPT, range(4), 0), noise(pipe, PROMPT, range(6), 1)
    for steps in (1, 3):
        guidance.apply(pipe)
        alone = sample(pipe, PROMPT, one, steps=steps, guidance_scale=3.0)
        for other in (1, 2):
            sample(pipe, PROMPT, two, steps=other, guidance_scale=3.0)
            assert torch.equal(sample(pipe, PROMPT, one, steps=steps, guidance_scale=3.0), alone)
    guidance.remove(pipe)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("divergence", ["kl", "chi2"])
def test_h_moves_by_the_written_out_formula(tiny_pipe, divergence, published):
    pipe = tiny_pipe()
    made, wanted = classifier(pipe), np.array([0.7, 0.3])
    strength, first = (0.2, 0) if published else (20.0, 4)  # as published both halves of 4 pictures are one batch
    how = {"divergence": divergence, "both": published, "raw": published}
    guidance = HGuidance([made], {"gender": wanted}, strength, **how)
    plain, guided = moved(pipe, guidance, noise(pipe, PROMPT, range(4), 0))
    assert torch.equal(plain[:4], guided[:4]) != published
    weight = made.weight[0].double().numpy()
    h = plain[first:].flatten(1).double().numpy()
    scores = np.exp(h @ weight.T / TEMPERATURE)
    p = scores / scores.sum(1, keepdims=True)
    mean = p.mean(0)
    outer = np.log(mean / wanted) + 1 if divergence == "kl" else 2 * (mean - wanted) / wanted
    jacobian = p[:, :, None] * (np.eye(2) - p[:, None, :]) / TEMPERATURE  # of softmax(l / 8), per picture
    gradient = np.einsum("k,nkl,ld->nd", outer, jacobian, weight) / len(h)
    step = strength * (1 if published else len(h) / np.linalg.norm(weight, 2) ** 2) * gradient
    np.testing.assert_allclose(guided[first:].flatten(1).numpy(), h - step, rtol=1e-4, atol=1e-4)
    assert abs(step).max() > 1e-3


@pytest.mark.parametrize("published", [False, True])
def test_mode_sample_pushes_each_picture_by_as_much_towards_the_logit(tiny_pipe, published):
    pipe = tiny_pipe()
    made, first = classifier(pipe, "skin_tone"), 0 if published else 4
    shares = {"skin_tone": [0, 0, 1, 0]}
    guidance = HGuidance([made], shares, 3.0, mode="sample", both=published, raw=published)
    plain, guided = moved(pipe, guidance, noise(pipe, PROMPT, range(4), 0))
    weight = made.weight[0].double().numpy()
    push = 3.0 * weight[2] / (1 if published else np.linalg.norm(weight, 2) ** 2)
    step = (guided - plain).flatten(1).numpy()
    np.testing.assert_allclose(step[first:], np.tile(push, (8 - first, 1)), rtol=1e-3, atol=1e-4)
    assert (step[:first] == 0).all()


def test_strength_means_the_same_for_batches_of_4_16_and_64(tiny_pipe):
    pipe = tiny_pipe()
    guidance = HGuidance([classifier(pipe)], {"gender": [1.0, 0.0]}, 10.0, mode="sample")
    latents = noise(pipe, PROMPT, range(4), 0)
    steps = []
    for times in (1, 4, 16):
        plain, guided = moved(pipe, guidance, latents.repeat(times, 1, 1, 1))
        steps.append((guided - plain)[4 * times : 4 * times + 4])
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(steps[0], steps[2], rtol=1e-3, atol=1e-5)
    assert steps[0].abs().max() > 1e-3


def test_every_scheduler_and_number_of_steps_in_a_plain_pipeline(tiny_pipe):
    guidance_of = {}
    kinds = {DDIMScheduler: {}, PNDMScheduler: {"skip_prk_steps": True}, DPMSolverMultistepScheduler: {}}
    for scheduler, special in kinds.items():
        for steps in (3, 7):
            pipe = tiny_pipe()
            pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **special)
            guidance = HGuidance([classifier(pipe)], {"gender": [0.5, 0.5]}, 1.0, mode="assigned")
            how = {"num_inference_steps": steps, "latents": noise(pipe, PROMPT, range(4), 0), "output_type": "latent"}
            plain = pipe([PROMPT] * 4, **how).images
            guidance.apply(pipe)
            guided = pipe([PROMPT] * 4, **how).images
            empty = pipe([""] * 4, guidance_scale=1.0, **how).images  # unconditional
            guidance.remove(pipe)
            assert guided.isfinite().all() and empty.isfinite().all()
            guidance_of[scheduler.__name__, steps] = (guided - plain).abs().max().item()
    assert min(guidance_of.values()) > 1e-4, guidance_of


def test_a_step_is_left_alone_where_its_classifier_is_not_reliable(tiny_pipe):
    pipe = tiny_pipe()
    latents = noise(pipe, PROMPT, range(4), 0)
    guidance = HGuidance([classifier(pipe, reliable=(0.6, 1.0))], {"gender": [0.5, 0.5]}, 30.0, reliable=0.7)
    plain, guided = moved(pipe, guidance, latents)  # one step, at the most noise
    assert torch.equal(plain, guided)
    before = sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0)
    guidance.apply(pipe)
    assert not torch.equal(sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0), before)


def test_several_attributes_add_up(tiny_pipe):
    pipe = tiny_pipe()
    both = [classifier(pipe), classifier(pipe, "skin_tone", seed=1)]
    latents, shares = noise(pipe, PROMPT, range(4), 0), {"gender": [0.5, 0.5], "skin_tone": [0.25] * 4}
    steps = []
    for names in (["gender"], ["skin_tone"], ["gender", "skin_tone"]):
        plain, guided = moved(pipe, HGuidance(both, {name: shares[name] for name in names}, 20.0), latents)
        steps.append(guided - plain)
    torch.testing.assert_close(steps[0] + steps[1], steps[2], rtol=1e-3, atol=1e-5)


def test_assigned_pictures_keep_their_class_through_a_batch_and_the_next_is_assigned_anew(tiny_pipe):
    pipe = tiny_pipe()
    guidance = HGuidance([classifier(pipe)], {"gender": [0.25, 0.75]}, 5.0, mode="assigned")
    given, assign = [], guidance._wanted
    guidance._wanted = lambda *values: given.append(assign(*values)) or given[-1]
    guidance.apply(pipe)
    sample(pipe, PROMPT, noise(pipe, PROMPT, range(8), 0), steps=3, guidance_scale=3.0)
    assert len(given) == 1 and (given[0] == 0).sum() == 2
    sample(pipe, PROMPT, noise(pipe, PROMPT, range(4), 0), steps=3, guidance_scale=3.0)
    assert len(given) == 2 and len(given[1]) == 4


def test_distances_are_zero_at_the_wanted_shares_alone():
    wanted = torch.tensor([0.2, 0.3, 0.5])
    for divergence in ("kl", "chi2"):
        assert distance(wanted, wanted, divergence).abs() < 1e-6
        assert distance(torch.tensor([0.3, 0.3, 0.4]), wanted, divergence) > 0.01
    assert distance(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), "kl").isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"shares": {"age": [0.5, 0.5]}},
            "there is no h-classifier of age, only of gender: train one with fairnb gui",
        ),
        ({"shares": {"gender": [0.5, 0.6]}}, "a share for each of female, male, with sum 1"),
        ({"shares": {"gender": [0.2] * 5}}, "a share for each of female, male, with sum 1"),
        ({"reliable": 1.01}, "no step of the h-classifier of gender is reliable .its best: 1.00, wanted: 1.01"),
        ({"mode": "magic"}, "guidance knows no 'magic': use distribution, sample, assigned"),
        ({"divergence": "l2"}, "guidance knows no 'l2': use kl, chi2"),
        ({"mode": "sample"}, "mode sample pushes all images to one class of gender: give that class the share 1"),
        ({"mode": "assigned", "both": True}, "leave both out"),
    ],
)
def test_wrong_wishes_are_refused_at_once(tiny_pipe, change, message):
    with pytest.raises(UserError, match=message):
        HGuidance([classifier(tiny_pipe())], **{"shares": {"gender": [0.5, 0.5]}, "strength": 1.0} | change)


def test_a_batch_of_one_and_too_large_a_strength_are_explained(tiny_pipe):
    pipe = tiny_pipe()
    guidance = HGuidance([classifier(pipe)], {"gender": [0.5, 0.5]}, 1e39)
    guidance.apply(pipe)
    with pytest.raises(UserError, match="a batch of one picture has no shares: draw several at once, or use mode sam"):
        sample(pipe, PROMPT, noise(pipe, PROMPT, [0], 0), steps=2, guidance_scale=3.0)
    with pytest.raises(UserError, match="guidance of strength 1e.39 makes h infinite at timestep .*: lower it"):
        sample(pipe, PROMPT, noise(pipe, PROMPT, range(2), 0), steps=2, guidance_scale=3.0)
    one = HGuidance([classifier(pipe)], {"gender": [1.0, 0.0]}, 1.0, mode="sample")
    guidance.remove(pipe)
    one.apply(pipe)
    assert sample(pipe, PROMPT, noise(pipe, PROMPT, [0], 0), steps=2, guidance_scale=3.0).isfinite().all()


def test_a_file_guides_as_what_was_saved_and_pictures_know_it(tiny_pipe, tmp_path):
    pipe, path = tiny_pipe(), tmp_path / "guidance.safetensors"
    own = HGuidance([classifier(pipe)], {"gender": [0.3, 0.7]}, 20.0, reliable=0.8, both=True, raw=True)
    for each in own.classifiers.values():
        each.weight = each.weight.half().float()
    own.save(path, {"experiment": "one"})
    loaded = load_adapter(path, pipe)
    assert loaded.metadata == {"experiment": "one"}
    latents, drawn = noise(pipe, PROMPT, range(4), 0), []
    for each in (own, loaded):
        each.apply(pipe)
        drawn.append(sample(pipe, PROMPT, latents, steps=3, guidance_scale=3.0))
        each.remove(pipe)
    assert torch.equal(*drawn)
    rows = [{"prompt_id": 0, "prompt": PROMPT, "occupation": None, "split": "test"}]
    how = {"images": 2, "folder": tmp_path / "images", "seed": 0, "steps": 2, "guidance_scale": 3.0, "batch": 2}
    generate(pipe, rows, **how)
    loaded.apply(pipe)
    with pytest.raises(UserError, match="belongs to another run"):  # guided pictures do not go among plain ones
        generate(pipe, rows, **how)
    loaded.remove(pipe)
    generate(pipe, rows, **how)
    with pytest.raises(UserError, match="cannot be merged"):
        loaded.merge(pipe)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(path, pipe)


def test_classifiers_of_another_model_are_refused(tiny_pipe, mini):
    pipe = tiny_pipe()
    HGuidance([classifier(mini)], {"gender": [0.5, 0.5]}, 1.0).apply(pipe)
    with pytest.raises(UserError, match="of gender reads 2048 numbers, h has 512 here: it was trained on another"):
        sample(pipe, PROMPT, noise(pipe, PROMPT, range(2), 0), steps=2, guidance_scale=3.0)


def test_on_mini_sd_pictures_of_a_job_never_seen_get_equal_shares(mini, vision):
    sampling = Sampling(steps=6, guidance_scale=3.0, batch=16)
    jobs = [f"a photo of a {job}" for job in ("pilot", "lifeguard", "person", "gardener", "nurse", "lawyer")]
    captured = capture_h(mini, vision, "gender", jobs, images=8, sampling=sampling, seed=0)
    made = h_classifier_from_captured(captured, "gender", seed=0, device="cpu")
    assert made.accuracy.min() > 0.9  # the word is in h from the first step
    prompt = "a photo of an electrician"

    def men(guidance):
        if guidance:
            guidance.apply(mini)
        final = sample(mini, prompt, noise(mini, prompt, range(16), 1), steps=6, guidance_scale=3.0)
        if guidance:
            guidance.remove(mini)
        seen = vision.perceive(mini, final, 16).probabilities["gender"]
        return seen.argmax(1).float().mean().item()

    assert men(None) > 0.85
    assert 0.3 < men(HGuidance([made], {"gender": [0.5, 0.5]}, 30.0, mode="assigned", reliable=0.0)) < 0.7
    assert men(HGuidance([made], {"gender": [1.0, 0.0]}, 4.0, mode="sample", reliable=0.0)) < 0.2


def test_a_file_of_stable_diffusions_size_stays_below_40_megabytes(tmp_path):
    steps, width = 50, 1280 * 8 * 8  # SD 1.5 at 512 pixels
    ones = torch.ones(steps)
    made = HClassifier(
        "race", ("a", "b", "c", "d"), ones, torch.zeros(steps, 4, width), torch.zeros(steps, 4), ones, ones
    )
    HGuidance([made], {"race": [0.25] * 4}, 1.0).save(tmp_path / "race.safetensors")
    assert 30e6 < (tmp_path / "race.safetensors").stat().st_size < 40e6
