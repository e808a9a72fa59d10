"""Text noise: as much as asked for, one for each image at every step, and none that stays."""

import torch

from fairnb.adapters.text_noise import AMOUNT, TextNoise
from fairnb.diffusion.pipeline import encode_prompts
from fairnb.diffusion.sampling import noise, sample

PROMPT, HOW = "a photo of a doctor", {"steps": 3, "guidance_scale": 3.0}


def test_each_image_has_its_own_noise_at_every_step(mini):
    start, seen = noise(mini, PROMPT, range(3), 0), []
    plain = sample(mini, [PROMPT] * 3, start, **HOW)
    perturbed = TextNoise()
    perturbed.apply(mini, 0.5)
    watch = mini.unet.register_forward_pre_hook(
        lambda module, inputs, values: seen.append(values["encoder_hidden_states"]), with_kwargs=True
    )
    try:
        several, alone = sample(mini, [PROMPT] * 3, start, **HOW), sample(mini, [PROMPT], start[1:2], **HOW)
    finally:
        watch.remove()
        perturbed.remove(mini)
    states = encode_prompts(mini, [PROMPT])
    added = seen[0][3:] - states
    assert torch.equal(seen[0][:3], encode_prompts(mini, [""]).expand(3, -1, -1))  # the empty prompt is left alone
    assert all(torch.equal(each, seen[0]) for each in seen[:3])
    assert not torch.allclose(added[0], added[1])
    torch.testing.assert_close(added.std(), 0.5 * AMOUNT * states.std(), rtol=0.05, atol=0)
    torch.testing.assert_close(seen[3][1], seen[0][4])  # alone as in a batch
    torch.testing.assert_close(alone[0], several[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(several, plain, atol=1e-2)
    assert torch.equal(sample(mini, [PROMPT] * 3, start, **HOW), plain)


def test_strength_zero_is_bitwise_the_plain_model(mini):
    start = noise(mini, PROMPT, range(1), 0)
    plain, off = sample(mini, [PROMPT], start, **HOW), TextNoise()
    off.apply(mini, 0.0)
    assert torch.equal(sample(mini, [PROMPT], start, **HOW), plain) and off.parameters() == []
