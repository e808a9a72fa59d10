"""Class tokens: a class for each image, appended to the text states of its prompt; no weight changes.

In a text encoder that reads from left to right, the state of a class word ("female") in "a photo of a female pilot" is
the same whatever follows. So it needs no measuring and no sampling: these states, in place of the last padding tokens,
are what cross-attention would see of the named prompt, with the attention map that the image gives them, while the
states of all other words stay those of the plain prompt. `class_directions` instead shifts the outputs of
cross-attention, the same at every position, which reaches far fewer images (notebook 12, part 10).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.class_steering import ClassSteering, read_steering
from fairnb.adapters.h_space import UNetCall, on_outputs
from fairnb.adapters.prompt_gate import PromptGate
from fairnb.diffusion.pipeline import encode_prompts, tokenize
from fairnb.errors import UserError
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.prompts.templates import photo_of

KIND = "fairnb class tokens 1"


@torch.no_grad()
def class_tokens(pipe: StableDiffusionPipeline, attribute: str) -> list[torch.Tensor]:
    """The states [n, D] of the n tokens of each class word of an attribute."""
    found = []
    for word in get_attribute(attribute).words:
        text = photo_of(word)
        ids, states = tokenize(pipe, [text])[0], encode_prompts(pipe, [text])[0].float()
        end = int((ids == pipe.tokenizer.eos_token_id).int().argmax())
        count = len(pipe.tokenizer(word, add_special_tokens=False).input_ids)
        found.append(states[end - count : end])
    return found


class ClassTokens(ClassSteering):
    """Class tokens with target shares and a gate, applied to a pipeline like any adapter.

    `tokens` maps each attribute to the states of its class words. Each attribute has as many places at the end of the
    prompt as its longest word, in the order of words in a prompt; a prompt without so much padding loses its last
    words. `UserError` as of `ClassSteering`, and for a pipeline whose text states have another width.
    """

    title, kind = "class tokens", KIND

    def __init__(
        self, tokens: Mapping[str, Sequence[torch.Tensor]], shares: Mapping[str, Sequence[float]], gate: PromptGate
    ):
        super().__init__(tokens, shares, gate)
        self.states = {name: list(tokens[name]) for name in shares}

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Steer the pipeline; 1 appends the class words, 0 is bitwise the plain pipeline."""
        self.remove(pipe)
        width = pipe.text_encoder.config.hidden_size
        if any(each.shape[1] != width for tokens in self.states.values() for each in tokens):
            raise UserError(f"the class tokens are of another model, whose text states do not have {width} numbers")
        if not strength:
            return
        pipe.applied = f"class tokens {self.digest()} x {strength:g}"

        def begin(call: UNetCall) -> torch.Tensor:
            states, chosen = call.states.clone(), self.drawn(call)
            own, end = states[call.prompt], states.shape[1]
            for name in sorted(self.states, key=WORD_ORDER.index, reverse=True):
                end -= max(map(len, self.states[name]))
                for row, number in enumerate(chosen[name].tolist()):
                    if number >= 0:
                        word = self.states[name][number].to(own)
                        place = own[row, end : end + len(word)]
                        place += strength * (word - place)
            return states

        self._hooks = on_outputs(pipe, {}, lambda output, call, name: None, begin)

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """The states of each class word in float16, by attribute and number of the class."""
        return {f"{name}.{k}": word.half() for name, each in self.states.items() for k, word in enumerate(each)}


def load_class_tokens(path: str | Path, device: torch.device | str) -> ClassTokens:
    """Read a file of `ClassTokens.save`; `UserError` if it is damaged."""
    try:
        tensors, shares, gate, record = read_steering(path, device)
        words = {
            name: [tensors[f"{name}.{k}"].float() for k in range(len(get_attribute(name).classes))] for name in shares
        }
        made = ClassTokens(words, shares, gate)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the class tokens {path} are damaged ({error}): make them again") from error
    made.metadata = record
    return made
