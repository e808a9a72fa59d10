"""Class tokens: the very states of the named prompt, each image its own, and prompts that are left alone."""

import numpy as np
import pytest
import torch

from fairnb.adapters.class_steering import draw_classes
from fairnb.adapters.class_tokens import ClassTokens, class_tokens, load_class_tokens
from fairnb.adapters.load import load_adapter
from fairnb.adapters.model_cards import describe
from fairnb.adapters.prompt_gate import fit_gate
from fairnb.diffusion.pipeline import encode_prompts, tokenize
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import load_prompt_set
from fairnb.prompts.templates import name_class, photo_of
from fairnb.vision.perception import perceived_classes
from tests.adapters.test_class_directions import check_off, open_gate
from tests.conftest import MINI

PROMPT, HOW = "a photo of a doctor", {"steps": 2, "guidance_scale": 3.0}


@pytest.mark.parametrize("attribute", ["gender", "skin_tone", "age"])
def test_the_tokens_are_those_of_every_named_prompt(mini, attribute):
    for word, states in zip(get_attribute(attribute).words, class_tokens(mini, attribute), strict=True):
        for job in ("doctor", "bank clerk"):
            named = name_class(photo_of(job), word)
            ids = tokenize(mini, [named])[0].tolist()
            own = mini.tokenizer(word, add_special_tokens=False).input_ids
            start = next(at for at in range(len(ids)) if ids[at : at + len(own)] == own)
            there = encode_prompts(mini, [named])[0, start : start + len(own)]
            torch.testing.assert_close(states, there, rtol=1e-4, atol=1e-4)


def seen_states(pipe, prompts, latents) -> torch.Tensor:
    seen = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, inputs, values: seen.append(values["encoder_hidden_states"]), with_kwargs=True
    )
    sample(pipe, prompts, latents, **HOW)
    hook.remove()
    assert torch.equal(seen[0], seen[-1])  # at every step
    return seen[0]


def test_each_image_gets_its_class_at_the_end_of_the_prompt_and_nothing_else_changes(tiny_pipe):
    pipe = tiny_pipe()
    names = ("skin_tone", "gender")
    words, latents = {name: class_tokens(pipe, name) for name in names}, noise(pipe, PROMPT, range(6), 1)
    plain = seen_states(pipe, PROMPT, latents)
    shares = {"skin_tone": [0.25] * 4, "gender": [0.5, 0.5]}
    steered = ClassTokens(words, shares, open_gate(pipe, *names))
    places = {name: max(map(len, words[name])) for name in names}
    ends = {"gender": plain.shape[1], "skin_tone": plain.shape[1] - places["gender"]}  # in the order of a prompt
    for strength in (1.0, 0.5):
        steered.apply(pipe, strength)
        moved = seen_states(pipe, PROMPT, latents)
        steered.remove(pipe)
        wanted = plain.clone()
        for name, share in shares.items():
            classes = draw_classes(torch.tensor(share).double(), name, latents)
            for row, number in enumerate(classes.tolist(), start=6):  # the second half of the batch is the prompt's
                word, start = words[name][number], ends[name] - places[name]
                place = slice(start, start + len(word))
                wanted[row, place] = (1 - strength) * wanted[row, place] + strength * word
        torch.testing.assert_close(moved, wanted)
        assert torch.equal(moved[:6], plain[:6])


def test_what_is_off_is_bitwise_the_plain_pipeline(tiny_pipe):
    pipe = tiny_pipe()
    words = {"gender": class_tokens(pipe, "gender")}
    check_off(pipe, ClassTokens(words, {"gender": [0.5, 0.5]}, open_gate(pipe, "gender")))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_plain_diffusers_pipeline_is_steered_by_one_line(tiny_pipe, guidance):
    pipe = tiny_pipe()
    latents, how = noise(pipe, PROMPT, range(3), 1), {"guidance_scale": guidance, "output_type": "latent"}
    plain = pipe([PROMPT] * 3, latents=latents, num_inference_steps=5, **how).images
    words = {"gender": class_tokens(pipe, "gender")}
    ClassTokens(words, {"gender": [0.5, 0.5]}, open_gate(pipe, "gender")).apply(pipe)
    drawn = [pipe([PROMPT] * 3, latents=latents, num_inference_steps=5, **how).images for _ in range(2)]
    assert torch.equal(*drawn) and not torch.allclose(drawn[0], plain)


def test_a_file_gives_the_same_images_and_is_described(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    shares = {"gender": [0.25, 0.75], "age": [0.5, 0.5]}
    words, path = {name: class_tokens(pipe, name) for name in shares}, tmp_path / "steer.safetensors"
    ClassTokens(words, shares, open_gate(pipe, *shares)).save(path, {"experiment": "one"})
    loaded = load_adapter(path, pipe)
    assert loaded.shares["gender"].tolist() == [0.25, 0.75] and loaded.metadata == {"experiment": "one"}
    latents = noise(pipe, PROMPT, range(4), 1)
    loaded.apply(pipe)
    drawn = sample(pipe, PROMPT, latents, **HOW)
    loaded.remove(pipe)
    loaded.save(tmp_path / "again.safetensors")
    fresh = tiny_pipe()
    load_adapter(tmp_path / "again.safetensors", fresh).apply(fresh)
    assert torch.equal(sample(fresh, PROMPT, latents, **HOW), drawn)
    count = sum(len(word) for each in words.values() for word in each)
    text = describe(path)
    assert f"class tokens, {count} in all" in text and "gender: female 0.25, male 0.75" in text


def test_mistakes_are_refused(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    words, gate = {"gender": class_tokens(pipe, "gender")}, open_gate(pipe, "gender")
    with pytest.raises(UserError, match="no class tokens of age, only of gender"):
        ClassTokens(words, {"age": [0.5, 0.5]}, gate)
    with pytest.raises(UserError, match="a share for each of female, male, with sum 1"):
        ClassTokens(words, {"gender": [0.5, 0.6]}, gate)
    other = ClassTokens({"gender": [torch.zeros(1, 7)] * 2}, {"gender": [0.5, 0.5]}, gate)
    with pytest.raises(UserError, match="class tokens are of another model"):
        other.apply(pipe)
    with pytest.raises(UserError, match="class tokens cannot be merged"):
        other.merge(pipe)
    other.states = {}
    other.save(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="damaged.safetensors are damaged .'gender.0'.: make them again"):
        load_class_tokens(tmp_path / "damaged.safetensors", "cpu")


def test_on_mini_sd_held_out_words_show_the_classes_that_were_drawn(mini, judge, vision):
    words = load_prompt_set(MINI.parent / "prompts" / "mini.json")
    shares = {"gender": [0.25, 0.75], "skin_tone": [0.25] * 4}
    tokens = {name: class_tokens(mini, name) for name in shares}
    steered = ClassTokens(tokens, shares, fit_gate(mini, list(shares), words, 0, ["age"]))
    hits = {name: [] for name in shares}
    for job in words.split("test")[:4]:
        prompt = photo_of(job)
        start = noise(mini, prompt, range(8), 0)
        steered.apply(mini)
        drawn = decode(mini, sample(mini, prompt, start, steps=6, guidance_scale=3.0))
        steered.remove(mini)
        for name, share in shares.items():
            if not steered.gate.opens(name, encode_prompts(mini, [prompt])):
                continue  # the gate errs on some words; its errors have a test of their own
            classes = get_attribute(name).classes
            wanted = [classes[k] for k in draw_classes(torch.tensor(share).double(), name, start).tolist()]
            hits[name] += np.equal(wanted, perceived_classes(drawn, vision.detector, judge, name)).tolist()
    assert all(len(each) >= 16 and np.mean(each) >= 0.9 for each in hits.values()), hits
