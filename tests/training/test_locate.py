"""Locating equals the literal published procedure; neuron sets and their files."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from fairnb.adapters.neuron_sets import (
    count_neurons,
    difference,
    intersection,
    largest,
    load_neurons,
    random_anywhere,
    random_like,
    read_flat_text,
    save_neurons,
    union,
    write_flat_text,
)
from fairnb.bench.published import literal_locate
from fairnb.diffusion.pipeline import encode_prompts
from fairnb.diffusion.sampling import fresh_scheduler, noise
from fairnb.errors import UserError
from fairnb.prompts.attributes import AGE, GENDER, SKIN_TONE
from fairnb.training.locate import FAMILIES, contrast_pairs, locate, mean_gradient, select

OCCUPATIONS = ["doctor", "nurse", "teacher", "chef"]
CONTENTS = ["house", "tree", "boat"]
CONTEXTS = ["in a garden", "at night", "by the sea"]
WORDS = {"contents": CONTENTS, "contexts": CONTEXTS}
SETTINGS = {"k": 8000, "frequency": 0.5, "timestep": 699, "seed": 0, **WORDS}


def flat(neurons, unet):
    starts, start = {}, 0
    for name, weight in unet.named_parameters():
        starts[name] = start
        start += weight.numel()
    return {starts[name] + index for name, indices in neurons.items() for index in indices.tolist()}


def neurons_of(**sets):
    return {name: torch.tensor(indices, dtype=torch.int64) for name, indices in sets.items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("attribute", [GENDER, AGE, SKIN_TONE])
def test_contrast_pairs_differ_in_what_their_family_says(attribute):
    pairs = contrast_pairs(attribute, OCCUPATIONS, CONTENTS, CONTEXTS, seed=0)
    assert len(pairs) == 3 * len(OCCUPATIONS) and set(pairs.family) == set(FAMILIES)
    for pair in pairs.itertuples():
        left, right = pair.left.split(), pair.right.split()
        words = [word for word in left + right if word in attribute.words]
        if pair.family == "no_bias":
            assert not words and pair.occupation in left and right[-1] in CONTENTS
        else:
            assert len(set(words)) == 2 and pair.occupation in right
        if pair.family == "bias":
            assert pair.occupation in left and len(left) == len(right)
        if pair.family == "have_bias":
            assert pair.occupation not in left and left[5:] != right[5:]
    assert contrast_pairs(attribute, OCCUPATIONS, CONTENTS, CONTEXTS, seed=0).equals(pairs)
    assert not contrast_pairs(attribute, OCCUPATIONS, CONTENTS, CONTEXTS, seed=1).equals(pairs)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1.0), (torch.float32, 0.999)])
def test_locate_equals_the_literal_procedure(tiny_pipe, tmp_path, dtype, least):
    pipe = tiny_pipe(dtype)
    expected = literal_locate(pipe, GENDER, OCCUPATIONS[:2], tmp_path, **SETTINGS)
    located = locate(pipe, GENDER, OCCUPATIONS[:2], **SETTINGS)
    found = flat(located.neurons, pipe.unet)
    assert len(expected) > 100
    assert len(found & expected) / len(found | expected) >= least
    assert len(list(tmp_path.glob("*.npy"))) == 6


def test_locate_counts_and_cleans_up(tiny_pipe):
    pipe = tiny_pipe()
    located = locate(pipe, GENDER, OCCUPATIONS, **SETTINGS)
    for family in FAMILIES:
        counts = located.counts[family]
        assert sum(int(kept.sum()) for kept in counts.values()) == SETTINGS["k"] * len(OCCUPATIONS)
        assert all(kept.dtype == torch.int16 for kept in counts.values())
        assert {name: kept.shape for name, kept in counts.items()} == {
            name: weight.shape for name, weight in pipe.unet.named_parameters()
        }
    assert equal(located.neurons, select(located.counts, 2.0))
    assert count_neurons(located.neurons) == located.settings["found"]
    assert all(indices.equal(indices.unique()) for indices in located.neurons.values())
    assert all(not weight.requires_grad and weight.grad is None for weight in pipe.unet.parameters())
    assert equal(locate(pipe, GENDER, OCCUPATIONS, **SETTINGS).neurons, located.neurons)


@pytest.mark.parametrize("k", [0, 10**9])
def test_locate_refuses_an_impossible_k(tiny_pipe, k):
    with pytest.raises(UserError, match=f"k = {k}"):
        locate(tiny_pipe(), GENDER, OCCUPATIONS, **{**SETTINGS, "k": k})


def test_locate_refuses_unknown_noises(tiny_pipe):
    with pytest.raises(UserError, match="noises = every is not known: use one or each"):
        locate(tiny_pipe(), GENDER, OCCUPATIONS, **SETTINGS, noises="every")


def test_locate_refuses_missing_words(tiny_pipe):
    with pytest.raises(UserError, match="two contexts"):
        locate(tiny_pipe(), GENDER, OCCUPATIONS, **{**SETTINGS, "contexts": ["at night"]})


def test_set_algebra():
    one, two = neurons_of(a=[1, 2, 3], b=[0]), neurons_of(a=[2, 9], c=[4])
    assert equal(union(one, two), neurons_of(a=[1, 2, 3, 9], b=[0], c=[4]))
    assert equal(intersection(one, two), neurons_of(a=[2]))
    assert equal(difference(one, two), neurons_of(a=[1, 3], b=[0]))
    assert count_neurons(one) == 4


def test_random_control_has_equal_sizes_and_no_overlap(tiny_pipe):
    unet = tiny_pipe().unet
    neurons = locate(tiny_pipe(), GENDER, OCCUPATIONS, **SETTINGS).neurons
    neurons = {name: at for name, at in neurons.items() if 2 * len(at) <= unet.get_parameter(name).numel()}
    control = random_like(neurons, unet, seed=0)
    assert {name: len(at) for name, at in control.items()} == {name: len(at) for name, at in neurons.items()}
    assert not intersection(control, neurons)
    assert equal(random_like(neurons, unet, seed=0), control)
    second = random_like(neurons, unet, seed=0, avoid=control)
    assert count_neurons(second) == count_neurons(neurons) and not intersection(second, union(neurons, control))


def test_random_control_of_a_crowded_tensor_keeps_the_total():
    unet = torch.nn.Sequential(torch.nn.Linear(4, 4))
    neurons = neurons_of(**{"0.weight": [0, 5], "0.bias": [0, 1, 3]})
    control = random_like(neurons, unet, seed=0)
    assert control["0.bias"].tolist() == [2] and len(control["0.weight"]) == 4
    with pytest.raises(UserError, match="too few"):
        random_like(neurons_of(**{"0.bias": [0, 1, 3]}), unet, seed=0)


def test_neuron_files(tmp_path):
    unet = torch.nn.Sequential(torch.nn.Linear(4, 4))
    neurons = neurons_of(**{"0.weight": [0, 5], "0.bias": [1, 3]})
    save_neurons(neurons, tmp_path / "neurons.safetensors", {"attribute": "gender"})
    assert equal(load_neurons(tmp_path / "neurons.safetensors"), neurons)
    with safe_open(tmp_path / "neurons.safetensors", "pt") as file:
        assert file.metadata() == {"attribute": "gender"}
    write_flat_text(neurons, tmp_path / "neurons.txt", unet)
    assert (tmp_path / "neurons.txt").read_text().split() == ["0", "5", "17", "19"]
    assert equal(read_flat_text(tmp_path / "neurons.txt", unet), neurons)


def test_bad_neuron_files_are_refused(tmp_path):
    unet = torch.nn.Sequential(torch.nn.Linear(4, 4))
    path = tmp_path / "neurons"
    for text in ("3\n20\n", "-1\n", "many\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="neuron file"):
            read_flat_text(path, unet)
    with pytest.raises(UserError, match="neuron file"):
        load_neurons(path)
    with pytest.raises(UserError, match="neuron file"):
        load_neurons(tmp_path / "none")


def test_the_layout_of_stable_diffusion_1_5(tmp_path):
    """The U-Net of SD 1.5 on the meta device: the published numbering needs names and shapes, no values."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    weights = dict(unet.named_parameters())
    total = sum(weight.numel() for weight in weights.values())
    assert (len(weights), total) == (686, 859_520_964)
    rng = np.random.default_rng(0)
    indices = np.unique(np.concatenate([rng.integers(0, total, 20_000), [0, total - 1]]))
    (tmp_path / "published.txt").write_text("\n".join(map(str, indices.tolist())) + "\n")
    neurons = read_flat_text(tmp_path / "published.txt", unet)
    assert count_neurons(neurons) == len(indices)
    assert all(0 <= at.min() <= at.max() < weights[name].numel() for name, at in neurons.items())
    assert (
        neurons[next(iter(weights))][0] == 0
        and neurons[next(reversed(weights))][-1] == list(weights.values())[-1].numel() - 1
    )
    write_flat_text(neurons, tmp_path / "again.txt", unet)
    assert (tmp_path / "again.txt").read_text() == (tmp_path / "published.txt").read_text()


def test_random_weights_of_the_whole_unet_have_the_same_number_and_no_overlap():
    unet = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    neurons = neurons_of(**{"0.weight": range(100)})
    control = random_anywhere(neurons, unet, seed=0)
    assert count_neurons(control) == 100 and not intersection(control, neurons)
    assert {"0.weight", "1.weight"} <= set(control) and equal(control, random_anywhere(neurons, unet, seed=0))
    assert not equal(control, random_anywhere(neurons, unet, seed=1))


def test_the_largest_values_over_all_tensors():
    unet = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))  # 4 + 2 + 2 + 1 weights
    values = torch.tensor([0, 9, 0, 3, 0, 0, 0, 7, 8.0])
    assert equal(largest(values, 3, unet), neurons_of(**{"0.weight": [1], "1.weight": [1], "1.bias": [0]}))


def bias_gradients(pipe, pair, of=""):
    """The gradient of every tensor for a pair of prompts, at the noise of the prompt `of`."""
    scheduler = fresh_scheduler(pipe, 20)
    step = min(scheduler.timesteps, key=lambda t: abs(t - 699))
    start = noise(pipe, of, [0], 0).to(pipe.unet.dtype) * scheduler.init_noise_sigma
    start = scheduler.scale_model_input(start, step)
    pipe.unet.requires_grad_()
    states = encode_prompts(pipe, [pair.left, pair.right])
    left, right = pipe.unet(torch.cat([start, start]), step, encoder_hidden_states=states).sample
    gradients = torch.autograd.grad((left - right).abs().sum(), pipe.unet.parameters())
    pipe.unet.requires_grad_(False)
    return [gradient.abs() for gradient in gradients]


def bias_pairs():
    return contrast_pairs(GENDER, OCCUPATIONS, CONTENTS, CONTEXTS, seed=0).query("family == 'bias'")


@pytest.mark.parametrize("noises", ["one", "each"])
def test_the_mean_gradient_is_that_of_the_bias_pairs(tiny_pipe, noises):
    pipe, how = tiny_pipe(), {"timestep": 699, "seed": 0, "noises": noises, **WORDS}
    mean = 0
    for pair in bias_pairs().itertuples():
        gradients = bias_gradients(pipe, pair, pair.occupation if noises == "each" else "")
        mean += torch.cat([gradient.flatten() for gradient in gradients]) / len(OCCUPATIONS)
    torch.testing.assert_close(mean_gradient(pipe, GENDER, OCCUPATIONS, **how), mean, atol=1e-6, rtol=1e-3)
    assert not any(weight.requires_grad for weight in pipe.unet.parameters())


def test_weights_are_kept_of_the_tensors_that_match(tiny_pipe):
    pipe, settings = tiny_pipe(torch.float64), {**SETTINGS, "k": 40, "noises": "each", "tensors": r"attn2\.to_[kv]"}
    counts = locate(pipe, GENDER, OCCUPATIONS, **settings).counts["bias"]
    names = [name for name, _ in pipe.unet.named_parameters()]
    of = [i for i, name in enumerate(names) if "attn2.to_k" in name or "attn2.to_v" in name]
    assert of and len(of) < len(names)
    expected = torch.zeros(sum(pipe.unet.get_parameter(names[i]).numel() for i in of), dtype=torch.int16)
    for pair in bias_pairs().itertuples():
        gradients = bias_gradients(pipe, pair, pair.occupation)
        expected[torch.cat([gradients[i].flatten() for i in of]).topk(40).indices] += 1
    assert torch.equal(torch.cat([counts[names[i]].flatten() for i in of]), expected)
    assert sum(int(kept.sum()) for kept in counts.values()) == 40 * len(OCCUPATIONS)
    assert not any(weight.requires_grad for weight in pipe.unet.parameters())
    room = len(expected)
    with pytest.raises(UserError, match=f"of a U-Net with {room} in tensors that match .*: use 1 to {room}"):
        locate(pipe, GENDER, OCCUPATIONS, **{**settings, "k": room + 1})
    with pytest.raises(UserError, match="no tensor of the U-Net matches 'nothing': change locate.tensors"):
        locate(pipe, GENDER, OCCUPATIONS, **{**settings, "tensors": "nothing"})
