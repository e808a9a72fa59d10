"""Class directions: the written-out formula, classes by their shares, and prompts that are left alone."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

from fairnb.adapters.class_directions import (
    ClassDirections,
    cross_attention,
    directions_from_prompts,
    load_class_directions,
)
from fairnb.adapters.class_steering import draw_classes
from fairnb.adapters.load import load_adapter
from fairnb.adapters.model_cards import describe
from fairnb.adapters.prompt_gate import PERSON, PromptGate, _examples, _last_word, fit_gate
from fairnb.diffusion.pipeline import encode_prompts, tokenize
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.profiles import Sampling
from fairnb.prompts.sets import load_prompt_set
from fairnb.prompts.templates import photo_of
from fairnb.vision.perception import perceived_classes
from tests.conftest import MINI

PROMPT, HOW = "a photo of a doctor", {"steps": 2, "guidance_scale": 3.0}
SAMPLING = Sampling(steps=2, guidance_scale=3.0, batch=3)


def open_gate(pipe, *attributes) -> PromptGate:
    """A gate that lets every prompt through."""
    width = pipe.text_encoder.config.hidden_size
    always, never = torch.zeros(width + 1), torch.zeros(width + 1)
    always[-1], never[-1] = 1, -1
    return PromptGate({PERSON: always, **dict.fromkeys(attributes, never)}, {})


def outputs(pipe, prompts, latents):
    """The cross-attention outputs of the prompts' half at each step: timestep number -> layer -> [N, L, C]."""
    steps: list[dict] = []
    first = next(iter(cross_attention(pipe)))
    hooks = []

    def keep(name):
        def hook(module, inputs, output):
            if name == first:
                steps.append({})
            steps[-1][name] = output[len(output) // 2 :]

        return hook

    for name, module in cross_attention(pipe).items():
        hooks.append(module.register_forward_hook(keep(name)))
    sample(pipe, prompts, latents, **HOW)
    for hook in hooks:
        hook.remove()
    return steps


def test_directions_are_those_of_the_mean_outputs_of_named_prompts(tiny_pipe):
    pipe, prompts = tiny_pipe(), [PROMPT, "a photo of a pilot"]
    made = directions_from_prompts(pipe, "skin_tone", prompts, images=2, sampling=SAMPLING, seed=0)
    assert len(made.timesteps) == 2 and made.timesteps[0] > made.timesteps[1]
    means = []  # by hand: one class after the other, all images in one batch
    for word in ("light-skinned", "medium-skinned", "brown-skinned", "dark-skinned"):
        named = [f"a photo of a {word} {job}" for job in ("doctor", "doctor", "pilot", "pilot")]
        start = torch.cat([noise(pipe, prompt, range(2), 0) for prompt in prompts])
        means.append([{name: of.mean((0, 1)) for name, of in step.items()} for step in outputs(pipe, named, start)])
    for name in cross_attention(pipe):
        for at in range(2):
            by_class = torch.stack([each[at][name] for each in means]).double()
            basis, values = made.basis[name][at].double(), made.values[name][at].double()
            assert torch.allclose(basis @ basis.T, torch.eye(3).double(), atol=1e-5)
            centred = by_class - by_class.mean(0)
            assert torch.allclose(centred @ basis.T @ basis, centred, atol=1e-5)  # nothing lies outside
            assert torch.allclose(values, by_class @ basis.T, atol=1e-5)


def test_an_image_gets_the_values_of_its_class_and_keeps_the_rest(tiny_pipe):
    pipe = tiny_pipe()
    made = directions_from_prompts(pipe, "gender", [PROMPT], images=2, sampling=SAMPLING, seed=0)
    latents, layer = noise(pipe, PROMPT, range(5), 1), next(iter(cross_attention(pipe)))
    plain = outputs(pipe, [PROMPT] * 5, latents)[0][layer]
    steered = ClassDirections([made], {"gender": [0.6, 0.4]}, open_gate(pipe, "gender"))
    for strength in (1.0, 0.5):
        steered.apply(pipe, strength)
        moved = outputs(pipe, [PROMPT] * 5, latents)[0][layer]  # hooks added later see what the earlier ones return
        steered.remove(pipe)
        basis, values = made.basis[layer][0], made.values[layer][0]
        classes = draw_classes(torch.tensor([0.6, 0.4]).double(), "gender", latents)
        assert classes.bincount().tolist() == [3, 2]
        wanted = plain.mean(1) @ basis.T + strength * (values[classes] - plain.mean(1) @ basis.T)
        assert torch.allclose(moved.mean(1) @ basis.T, wanted, atol=1e-5)
        change = moved - plain
        assert torch.allclose(change, change[:, :1].expand_as(change), atol=1e-6)  # the same at every position
        assert torch.allclose(change @ basis.T @ basis, change, atol=1e-6)


def check_off(pipe, steered) -> None:
    """Strength 0, a closed gate and steering taken off are bitwise the plain pipeline; the same noise, the same
    classes."""
    latents, gate = noise(pipe, PROMPT, range(3), 1), steered.gate
    plain = sample(pipe, PROMPT, latents, **HOW)
    steered.apply(pipe, 0.0)
    assert torch.equal(sample(pipe, PROMPT, latents, **HOW), plain) and pipe.applied is None
    steered.apply(pipe)
    changed = sample(pipe, PROMPT, latents, **HOW)
    assert not torch.equal(changed, plain) and pipe.applied
    assert torch.equal(sample(pipe, PROMPT, latents, **HOW), changed)
    gate.weight["gender"][-1] = 1  # every prompt names a class
    assert torch.equal(sample(pipe, PROMPT, latents, **HOW), plain)
    gate.weight["gender"][-1], gate.weight[PERSON][-1] = -1, -1  # no prompt shows a person
    assert torch.equal(sample(pipe, PROMPT, latents, **HOW), plain)
    steered.remove(pipe)
    assert torch.equal(sample(pipe, PROMPT, latents, **HOW), plain) and pipe.applied is None


def test_what_is_off_is_bitwise_the_plain_pipeline(tiny_pipe):
    pipe = tiny_pipe()
    made = directions_from_prompts(pipe, "gender", [PROMPT], images=1, sampling=SAMPLING, seed=0)
    check_off(pipe, ClassDirections([made], {"gender": [0.5, 0.5]}, open_gate(pipe, "gender")))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_plain_diffusers_pipeline_is_steered_by_one_line(tiny_pipe, scheduler, guidance):
    pipe = tiny_pipe()
    made = directions_from_prompts(pipe, "gender", [PROMPT], images=1, sampling=SAMPLING, seed=0)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    latents, how = noise(pipe, PROMPT, range(3), 1), {"guidance_scale": guidance, "output_type": "latent"}
    plain = pipe([PROMPT] * 3, latents=latents, num_inference_steps=5, **how).images
    ClassDirections([made], {"gender": [0.5, 0.5]}, open_gate(pipe, "gender")).apply(pipe)
    drawn = [pipe([PROMPT] * 3, latents=latents, num_inference_steps=5, **how).images for _ in range(2)]
    assert torch.equal(*drawn) and not torch.allclose(drawn[0], plain)
    assert torch.allclose(drawn[0], sample(pipe, PROMPT, latents, steps=5, guidance_scale=guidance), atol=1e-4)


def test_every_sampling_draws_anew_whatever_came_before(tiny_pipe):
    pipe = tiny_pipe()
    made = directions_from_prompts(pipe, "gender", [PROMPT], images=1, sampling=SAMPLING, seed=0)
    steered = ClassDirections([made], {"gender": [0.5, 0.5]}, open_gate(pipe, "gender"))
    one, two = noise(pipe, PROMPT, range(4), 1), noise(pipe, PROMPT, range(6), 2)

    def drawn(latents, steps):
        return sample(pipe, PROMPT, latents, steps=steps, guidance_scale=3.0)

    for steps in (1, 2, 5):  # a sampling of more steps starts at another timestep
        steered.apply(pipe)
        alone = drawn(one, steps)
        for other in (1, 2, 5):
            drawn(two, other)
            assert torch.equal(drawn(one, steps), alone), (steps, other)


def test_classes_are_drawn_by_their_shares_also_for_a_single_image():
    shares = torch.tensor([0.5, 0.2, 0.3]).double()
    generator = torch.Generator().manual_seed(0)
    alone = [draw_classes(shares, "age", torch.randn(1, 4, generator=generator)).item() for _ in range(3000)]
    assert np.bincount(alone) / 3000 == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
    for number in (7, 10):
        counts = np.array(
            [
                draw_classes(shares, "age", torch.randn(number, 4, generator=generator)).bincount(minlength=3)
                for _ in range(50)
            ]
        )
        assert np.all(np.abs(counts - number * shares.numpy()) < 1 + 1e-9)
    first = [draw_classes(shares, "age", torch.randn(10, 4, generator=generator))[0].item() for _ in range(2000)]
    assert np.bincount(first) / 2000 == pytest.approx([0.5, 0.2, 0.3], abs=0.04)  # wherever it stands in the batch
    noises = torch.randn(8, 4, generator=generator)
    even = torch.tensor([0.5, 0.5]).double()
    assert not torch.equal(draw_classes(even, "age", noises), draw_classes(even, "gender", noises))


def test_a_file_gives_the_same_images_and_is_described(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    names = ("gender", "skin_tone")
    made = [directions_from_prompts(pipe, name, [PROMPT], images=1, sampling=SAMPLING, seed=0) for name in names]
    gate = open_gate(pipe, *names)
    gate.errors["gender"] = {"missed": 0.25, "false": 0.5}
    shares = {"gender": [0.25, 0.75], "skin_tone": [0.25] * 4}
    ClassDirections(made, shares, gate).save(tmp_path / "steer.safetensors", {"experiment": "one"})
    loaded = load_adapter(tmp_path / "steer.safetensors", pipe)
    assert loaded.shares["gender"].tolist() == [0.25, 0.75] and loaded.metadata == {"experiment": "one"}
    latents = noise(pipe, PROMPT, range(4), 1)
    loaded.apply(pipe)
    drawn = sample(pipe, PROMPT, latents, **HOW)
    loaded.save(tmp_path / "again.safetensors")
    load_adapter(tmp_path / "again.safetensors", pipe).apply(pipe)
    loaded.remove(pipe)
    text = describe(tmp_path / "steer.safetensors")
    assert "at 2 timesteps" in text and "gender: female 0.25, male 0.75" in text
    assert "gate, gender: 25.0% missed, 50.0% false" in text and "experiment: one" in text
    fresh = tiny_pipe()
    load_adapter(tmp_path / "again.safetensors", fresh).apply(fresh)
    assert torch.equal(sample(fresh, PROMPT, latents, **HOW), drawn)


def test_mistakes_are_refused(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    made = directions_from_prompts(pipe, "gender", [PROMPT], images=1, sampling=SAMPLING, seed=0)
    gate = open_gate(pipe, "gender")
    with pytest.raises(UserError, match="no class directions of age, only of gender"):
        ClassDirections([made], {"age": [0.5, 0.5]}, gate)
    with pytest.raises(UserError, match="a share for each of female, male, with sum 1"):
        ClassDirections([made], {"gender": [0.5, 0.6]}, gate)
    good = ClassDirections([made], {"gender": [0.5, 0.5]}, gate)
    with pytest.raises(UserError, match="cannot be merged"):
        good.merge(pipe)
    del made.basis[next(iter(made.basis))]
    with pytest.raises(UserError, match="measured on another model"):
        good.apply(pipe)
    lacking = ClassDirections([made], {"gender": [0.5, 0.5]}, gate)
    lacking.directions = {}
    lacking.save(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="damaged.safetensors are damaged .'gender.timesteps'.: measure them again"):
        load_class_directions(tmp_path / "damaged.safetensors", "cpu")


def test_the_examples_of_the_gate_know_which_word_tells(mini):
    words = load_prompt_set(MINI.parent / "prompts" / "mini.json")
    made = _examples(words.split("train")[:20], words.contents, words.contexts, ("gender", "age"), 0)
    for what in ("gender", "age", PERSON):
        ends = [(prompt, end) for prompt, end in zip(made.prompts, made.tells[what], strict=True) if end][:40]
        assert all(prompt.startswith(end) for prompt, end in ends)
        ids = tokenize(mini, [prompt for prompt, _ in ends])
        for (_, end), at, row in zip(ends, _last_word(mini, [end for _, end in ends]), ids, strict=True):
            assert mini.tokenizer.decode(row[at]).strip() == end.split()[-1].split("-")[-1]
    assert {end is None for end in made.tells[PERSON]} == {True, False}


def test_on_mini_sd_a_held_out_word_gets_its_shares_and_named_prompts_are_left_alone(mini, judge, vision):
    words = load_prompt_set(MINI.parent / "prompts" / "mini.json")
    sampling = Sampling(steps=6, guidance_scale=3.0, batch=16)
    train = words.prompts("train")[::8]
    made = directions_from_prompts(mini, "gender", train, images=1, sampling=sampling, seed=0)
    gate = fit_gate(mini, ["gender"], words, 0, ["age"])
    assert gate.errors["gender"]["missed"] < 0.05 and gate.errors["gender"]["false"] < 0.15
    jobs = words.split("test")
    for kind, least, most in (("", 0.8, 1.0), ("male ", 0.0, 0.1), ("old ", 0.8, 1.0), ("old female ", 0.0, 0.1)):
        states = encode_prompts(mini, [photo_of(kind + job) for job in jobs])
        assert least <= gate.opens("gender", states).float().mean() <= most, kind
    steered = ClassDirections([made], {"gender": [0.25, 0.75]}, gate)
    prompt = photo_of("miner")
    start = noise(mini, prompt, range(16), 0)
    steered.apply(mini)
    drawn = decode(mini, sample(mini, prompt, start, steps=6, guidance_scale=3.0))
    steered.remove(mini)
    seen = perceived_classes(drawn, vision.detector, judge, "gender")
    wanted = draw_classes(torch.tensor([0.25, 0.75]).double(), "gender", start)
    assert wanted.bincount().tolist() == [4, 12]
    assert sum(one == ("female", "male")[k] for one, k in zip(seen, wanted.tolist(), strict=True)) >= 14
