"""Prefix tokens: a few trained tokens before every prompt (FFD, Shen et al., ICLR 2024, experiment 2).

`pipe.load_textual_inversion` reads the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.protocol import read_weights, save_weights
from fairnb.errors import UserError

TOKEN = "<p1>"  # stands for all of them in plain diffusers: "<p1> a photo of a doctor"
HELD = "fairnb_prefix"  # the text encoder's parameter that holds them while they are applied


class PrefixTokens:
    """`count` trainable vectors [count, D] between the start token and the words of every prompt.

    They are initialised with embeddings of random words. The empty prompt of classifier-free guidance stays empty. At a
    strength between 0 and 1 the embedded prompt is interpolated between the plain and the prefixed one.
    """

    acts_from = 0

    def __init__(self, pipe: StableDiffusionPipeline, count: int = 5, seed: int = 0):
        words = pipe.text_encoder.get_input_embeddings().weight.detach()
        longest = pipe.tokenizer.model_max_length
        if not 1 <= count <= longest - 3:
            raise UserError(
                f"{count} prefix tokens do not fit a text encoder of {longest} tokens: use 1 to {longest - 3}"
            )
        drawn = torch.randperm(len(words) - 2, generator=torch.Generator().manual_seed(seed))[:count]
        self.metadata: dict = {}
        self._values = torch.nn.Parameter(words[drawn.to(words.device)].float(), requires_grad=False)
        self._pipe = pipe

    def parameters(self) -> list[torch.nn.Parameter]:
        """The vectors [count, D], for an optimiser."""
        return [self._values]

    def attach(self) -> None:
        """Start training: put the tokens before every prompt and let them require gradients."""
        self.apply(self._pipe)
        self._values.requires_grad_()

    def update(self) -> None:
        """Do nothing: prompts are embedded with the vectors themselves."""

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model within the context; then the tokens again, if they were applied."""
        held = HELD in self._pipe.text_encoder._parameters
        self.remove(self._pipe)
        try:
            yield
        finally:
            if held:
                self.apply(self._pipe)

    def detach(self) -> None:
        """End training and restore plain prompts."""
        self._values.requires_grad_(False)
        self.remove(self._pipe)

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Put the tokens before every prompt, replacing any strength applied before; 0 is bitwise the base."""
        self.remove(pipe)
        if not strength:
            return
        values, end, count = self._values, pipe.tokenizer.eos_token_id, len(self._values)

        def prefixed(_module, args: tuple, embedded: torch.Tensor) -> torch.Tensor:
            own = values.to(embedded.dtype).expand(len(embedded), -1, -1)
            # The last token stays: it is the end token of a prompt that fills the encoder.
            longer = torch.cat([embedded[:, :1], own, embedded[:, 1 : -1 - count], embedded[:, -1:]], 1)
            worded = (args[0][:, 1] != end).view(-1, 1, 1)
            return torch.where(worded, torch.lerp(embedded, longer, strength) if strength != 1 else longer, embedded)

        # As a parameter of the text encoder the tokens take part in its gradients and its fingerprint.
        pipe.text_encoder.register_parameter(HELD, values)
        pipe.text_encoder._fairnb_hook = pipe.text_encoder.get_input_embeddings().register_forward_hook(prefixed)
        pipe.applied = f"prefix tokens x {strength:g}"

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore plain prompts."""
        if HELD in pipe.text_encoder._parameters:
            del pipe.text_encoder._parameters[HELD]
            pipe.text_encoder._fairnb_hook.remove()
            pipe.applied = None

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Add the tokens to tokenizer and text encoder, as `load_textual_inversion` does; prompts then name `TOKEN`.

        `UserError` for a strength other than 1, which a token cannot have, and if the name is taken.
        """
        if strength != 1:
            raise UserError(f"prefix tokens cannot be merged at strength {strength:g}: use 1, or apply them instead")
        if TOKEN in pipe.tokenizer.get_vocab():
            raise UserError(f"the tokenizer has a token {TOKEN} already: load the model without it")
        self.remove(pipe)
        pipe.load_textual_inversion({TOKEN: self._values.detach().to(pipe.text_encoder.dtype)})

    def tensors(self) -> dict[str, torch.Tensor]:
        """The vectors under the name `TOKEN`, on the CPU."""
        return {TOKEN: self._values.detach().cpu().contiguous()}

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the vectors, with `metadata` in the header."""
        save_weights(path, self.tensors(), metadata, format="pt")


def load_prefix(path: str | Path, pipe: StableDiffusionPipeline) -> PrefixTokens:
    """Read a file of `PrefixTokens.save`, or another file with one tensor [count, D], without applying it.

    `UserError` if the file is damaged, holds something else, or vectors of another width.
    """
    tensors, _, record = read_weights(path)
    values = next(iter(tensors.values()))
    width = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    if len(tensors) != 1 or values.ndim != 2 or values.shape[1] != width:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in list(tensors.values())[:3])
        raise UserError(f"prefix {path} holds {shapes}: this text encoder needs one tensor (count, {width})")
    prefix = PrefixTokens(pipe, len(values))
    prefix._values.data.copy_(values)
    prefix.metadata = record
    return prefix
