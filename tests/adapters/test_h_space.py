"""h and its classifiers: what is read, that it is read right, and when that reading says something."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from fairnb.adapters.h_classifiers import fit_h_classifier, h_classifier_from_folders, reliability
from fairnb.adapters.h_space import invert, recording_h
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError

CLASSES = ("female", "male")


def two_clouds(apart: float, number: int = 80, width: int = 20, seed: int = 0):
    """h of two timesteps: nothing to see at 900, two clouds at 100."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 2
    clouds = torch.randn(number, width, generator=generator)
    h = {900: torch.randn(number, width, generator=generator), 100: clouds}
    h[100][:, 0] += apart * (2 * labels - 1)
    return {at: values.half() for at, values in h.items()}, labels


def test_a_classifier_reads_what_is_there_and_says_where_nothing_is():
    h, labels = two_clouds(2.0, 400)
    made = fit_h_classifier(h, labels, "gender", CLASSES)
    assert made.timesteps.tolist() == [900, 100] and made.weight.shape == (2, 2, 20)
    assert abs(made.accuracy[0] - 0.5) < 0.15 and made.accuracy[1] > 0.9
    assert abs(made.reliable[0] - 0.5) < 0.15 and made.reliable[1] > 0.95
    assert [made.nearest(at) for at in (999, 600, 400, 1)] == [0, 0, 1, 1]
    assert made.weight[1, 1, 0] == made.weight[1, 1].abs().max()  # along the one direction that tells them apart


def test_the_weights_are_a_minimum_of_the_written_out_loss():
    h, labels = two_clouds(0.5, 60)
    keep = labels[:45]  # unlike classes: 23 and 22
    made = fit_h_classifier({100: h[100][:45]}, keep, "gender", CLASSES, penalty=0.1)
    generator = torch.Generator().manual_seed(0)
    tested = torch.zeros(45, dtype=torch.bool)
    for k in (0, 1):
        rows = torch.nonzero(keep == k).flatten()
        tested[rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 4]]] = True
    x, y = h[100][:45][~tested].double(), keep[~tested]
    length = (x - x.mean(0)).square().sum(1).mean().sqrt()

    def loss(weight, offset):
        logits = x @ weight.T + offset
        each = torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]
        total = sum(each[y == k].mean() for k in (0, 1)) / 2
        return total + 0.1 * (weight * length).square().sum() / 2

    weight, offset = (part[0].double().requires_grad_() for part in (made.weight, made.offset))
    gradients = torch.autograd.grad(loss(weight, offset), (weight, offset))
    assert max((gradients[0] / length).abs().max(), gradients[1].abs().max()) < 1e-3


def test_reliability_counts_pairs_of_the_same_prompt_only():
    h, labels = two_clouds(1.0, 40, width=3)
    made = fit_h_classifier(h, labels, "gender", CLASSES)
    prompts = ["a"] * 15 + ["b"] * 25
    scores = made.logits(h[100], 1).log_softmax(1)
    won = pairs = 0
    for i in range(40):
        for j in range(40):
            if prompts[i] == prompts[j] and labels[i] != labels[j]:
                won += float(scores[i, labels[i]] > scores[j, labels[i]])
                pairs += 1
    assert reliability(made, h, labels, prompts)[1].item() == pytest.approx(won / pairs)
    # A classifier that reads the prompt and nothing else: right between prompts, worth nothing within one.
    h = {100: torch.zeros(40, 3)}
    h[100][:20, 0], h[100][20:, 0] = -1, 1
    labels = torch.tensor([0] * 18 + [1] * 2 + [0] * 2 + [1] * 18)
    reads = fit_h_classifier(h, labels, "gender", CLASSES)
    assert reads.accuracy[0] > 0.7
    assert reliability(reads, h, labels, ["nurse"] * 20 + ["pilot"] * 20)[0] == 0.5


def test_a_class_with_few_images_is_refused_with_its_number():
    h, labels = two_clouds(1.0, 80)
    few = torch.cat([torch.nonzero(labels == 0).flatten(), torch.nonzero(labels == 1).flatten()[:5]])
    with pytest.raises(UserError, match="class 'male' of gender has 5 images, too few for a classifier: give at lea"):
        fit_h_classifier({at: values[few] for at, values in h.items()}, labels[few], "gender", CLASSES)


def test_only_the_prompts_half_is_watched(tiny_pipe):
    pipe = tiny_pipe()
    latents = noise(pipe, "a photo of a doctor", range(3), 0)
    whole = []
    hook = pipe.unet.mid_block.register_forward_hook(lambda module, inputs, output: whole.append(output))
    with recording_h(pipe) as seen:
        for part in latents.split(2):  # one batch after the other: side by side
            sample(pipe, "a photo of a doctor", part, steps=4, guidance_scale=3.0)
    hook.remove()
    assert len(seen) == 4 and all(values.shape[0] == 3 for values in seen.values())
    first = torch.cat([whole[0][2:], whole[4][1:]]).flatten(1)
    torch.testing.assert_close(seen[max(seen)], first.half())
    with recording_h(pipe) as seen:
        sample(pipe, "a photo of a doctor", latents, steps=4, guidance_scale=1.0)
    assert all(values.shape[0] == 3 for values in seen.values())
    count = len(seen)
    sample(pipe, "a photo of a doctor", latents, steps=5, guidance_scale=1.0)
    assert len(seen) == count  # no hook is left


def test_inversion_finds_noise_that_draws_the_picture_again(mini):
    mini.scheduler = DDIMScheduler.from_config(mini.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    latents = noise(mini, "a photo of a person", range(2), 0)
    with torch.no_grad():
        final = sample(mini, "a photo of a person", latents, steps=50, guidance_scale=1.0)
        picture = mini.vae.decode(final / mini.vae.config.scaling_factor).sample
        start = invert(mini, picture, "a photo of a person", 50)
        again = sample(mini, "a photo of a person", start, steps=50, guidance_scale=1.0)
        drawn = mini.vae.decode(again / mini.vae.config.scaling_factor).sample
    other = picture.flip(0)
    assert (drawn - picture).abs().mean() < 0.35 * (other - picture).abs().mean()


def test_a_classifier_of_anything_from_folders_of_pictures(tiny_pipe, tmp_path):
    pipe, rng = tiny_pipe(), np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / name).mkdir()
        for number in range(12):
            array = (level + rng.integers(-30, 30, (40, 40, 3))).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    folders = {name: tmp_path / name for name in ("dark", "bright")}
    made = h_classifier_from_folders(pipe, "light", folders, steps=4, batch=5)
    assert made.classes == ("dark", "bright") and len(made.timesteps) == 4
    assert made.reliable.max() > 0.9
    with pytest.raises(UserError, match="no folder of pictures of 'grey' at"):
        h_classifier_from_folders(pipe, "light", folders | {"grey": tmp_path / "grey"}, steps=4, batch=5)
    (tmp_path / "grey").mkdir()
    with pytest.raises(UserError, match="class 'grey' of light has 0 images"):
        h_classifier_from_folders(pipe, "light", folders | {"grey": tmp_path / "grey"}, steps=4, batch=5)
    with pytest.raises(UserError, match="needs two classes"):
        h_classifier_from_folders(pipe, "light", {"dark": tmp_path / "dark"}, steps=4, batch=5)
