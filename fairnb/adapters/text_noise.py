"""Noise in the text states: a control for every method, since perturbing the prompt alone debiases somewhat.

The states of each image get Gaussian noise, the same at every timestep (CADS, Sadat et al., ICLR 2024, anneals it): the
prompt says less, of the occupation's class as of all else. What a method gains beyond this it owes to its direction.
"""

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.h_space import Steering, UNetCall, generator_of, on_outputs

AMOUNT = 1.0  # standard deviations of the text states


class TextNoise(Steering):
    """Noise of `AMOUNT` standard deviations of the prompt's text states, applied to a pipeline like any adapter."""

    title = "text noise"

    def parameters(self) -> list[torch.Tensor]:
        """None."""
        return []

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Perturb the prompts; an image's noise depends on its starting latents alone, not on its batch."""
        self.remove(pipe)
        amount = AMOUNT * strength
        if not amount:
            return
        pipe.applied = f"text noise {amount:g}"  # as no weight tells it
        noise = torch.empty(0)

        def begin(call: UNetCall) -> torch.Tensor:
            nonlocal noise
            states = call.states.clone()
            own = states[call.prompt]
            if call.begins:
                drawn = [
                    torch.randn(own.shape[1:], generator=generator_of(each, "text"))
                    for each in call.latents[call.prompt]
                ]
                noise = torch.stack(drawn).to(own)
            states[call.prompt] = own + amount * own.std((1, 2), keepdim=True) * noise
            return states

        self._hooks = on_outputs(pipe, {}, lambda output, call, name: None, begin)
