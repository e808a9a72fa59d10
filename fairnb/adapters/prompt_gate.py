"""A gate that reads a prompt: does it name a class already, and does it show a person?

It decides from the text encoder's states, and so knows no list of words. Every token's state gets a linear score, and
the largest in a prompt counts: a class word shows in the state of its own token, wherever it stands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional

from fairnb.diffusion.pipeline import encode_prompts, tokenize
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.prompts.sets import PromptSet
from fairnb.prompts.templates import photo_of

PERSON = "person"
STYLES = ("photo", "drawing", "painting")
PEOPLE, THINGS = 2000, 600  # example prompts, about
NAMED, PLACED = 0.4, 0.5  # of them: share that name a class of an attribute, and that end with a context
PENALTY = 1e-5  # with more of it more unseen occupations pass for class words
BATCH = 256  # prompts that are encoded at once


@dataclass
class PromptGate:
    """Linear scores of text states: `weight` maps each attribute and "person" to [D + 1], the offset last.

    `errors` maps them to the shares of prompts that were missed and that were flagged by mistake, on words, contents
    and contexts that a gate fitted on two thirds of them had not seen (of fewer than three, on the same).
    """

    weight: dict[str, torch.Tensor]
    errors: dict[str, dict[str, float]]

    def sees(self, what: str, states: torch.Tensor) -> torch.Tensor:
        """Whether each prompt, given by its text states [N, L, D], names a class of the attribute, or a person: [N]."""
        weight = self.weight[what].to(states.device)
        return (states.float() @ weight[:-1]).amax(1) + weight[-1] > 0

    def opens(self, attribute: str, states: torch.Tensor) -> torch.Tensor:
        """Whether each prompt shows a person and leaves the attribute open: [N]."""
        return self.sees(PERSON, states) & ~self.sees(attribute, states)


@dataclass
class _Examples:
    """Prompts, and for each attribute and "person" the text up to the word that tells it, or None."""

    prompts: list[str]
    tells: dict[str, list[str | None]]


def fit_gate(
    pipe: StableDiffusionPipeline, attributes: Sequence[str], prompts: PromptSet, seed: int, known: Sequence[str]
) -> PromptGate:
    """Fit a gate for some attributes on prompts of the train occupations and of contents, in several styles and
    contexts, with and without class words of these and the `known` attributes."""
    every = tuple(dict.fromkeys([*attributes, *known]))
    words = prompts.split("train"), prompts.contents, prompts.contexts
    seen, unseen = zip(
        *(([w for i, w in enumerate(each) if i % 3 < 2], each[2::3] or each) for each in words), strict=True
    )
    tested = _fit(pipe, [*attributes, PERSON], _examples(*seen, every, seed))
    new = _examples(*unseen, every, seed + 1)
    states, errors = _states(pipe, new.prompts), {}
    for what in tested:
        flags = PromptGate(tested, {}).sees(what, states).cpu().numpy()
        true = np.array([end is not None for end in new.tells[what]])
        errors[what] = {"missed": float(1 - flags[true].mean()), "false": float(flags[~true].mean())}
    return PromptGate(_fit(pipe, [*attributes, PERSON], _examples(*words, every, seed)), errors)


def _examples(
    occupations: Sequence[str], contents: Sequence[str], contexts: Sequence[str], attributes: Sequence[str], seed: int
) -> _Examples:
    rng = np.random.default_rng(seed)
    made = _Examples([], {what: [] for what in (*attributes, PERSON)})
    for nouns, count, person in ((occupations, PEOPLE, True), (contents, THINGS, False)):
        for noun in list(nouns) * max(1, count // len(nouns)):
            style = STYLES[rng.integers(len(STYLES))]
            order = sorted(attributes, key=WORD_ORDER.index)
            named = [name for name in order if person and rng.random() < NAMED]
            said = [str(rng.choice(get_attribute(name).words)) for name in named]
            whole = photo_of(" ".join([*said, noun]), style)
            ends = {name: photo_of(" ".join(said[: at + 1]), style) for at, name in enumerate(named)}
            ends |= {PERSON: whole} if person else {}
            place = f" {rng.choice(list(contexts))}" if rng.random() < PLACED else ""
            made.prompts.append(whole + place)
            for what, texts in made.tells.items():
                texts.append(ends.get(what))
    return made


def _fit(pipe: StableDiffusionPipeline, wanted: Sequence[str], examples: _Examples) -> dict[str, torch.Tensor]:
    """The weights [D + 1] of each gate: logistic regression, first on the tokens that tell, then on the largest score
    of each prompt, which the first alone does not separate best and from anywhere else would not be found."""
    states = _states(pipe, examples.prompts)
    mean, scale = states.mean((0, 1)), states.std((0, 1)).clamp(min=1e-6)
    states = (states - mean) / scale
    fitted = {}
    for what in wanted:
        ends = examples.tells[what]
        shown = torch.tensor([end is not None for end in ends], device=states.device)
        tokens = torch.zeros(states.shape[:2], device=states.device)
        tokens[shown, _last_word(pipe, [end for end in ends if end is not None])] = 1
        start = torch.zeros(states.shape[2] + 1, device=states.device)
        weight = _logistic(lambda w: (states @ w[:-1]).flatten(), tokens.flatten(), start)
        weight = _logistic(lambda w: (states @ w[:-1]).amax(1), shown.float(), weight)
        own = weight[:-1] / scale
        fitted[what] = torch.cat([own, weight[-1:] - own @ mean])
    return fitted


def _logistic(scores: Callable[[torch.Tensor], torch.Tensor], y: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Logistic regression of y [N] on `scores(weight)` [N] + offset, both classes counting alike: [D + 1]."""
    weight = start.clone().requires_grad_()
    balance = torch.where(y > 0, 0.5 / y.mean().clamp(min=1e-6), 0.5 / (1 - y).mean().clamp(min=1e-6))
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(scores(weight) + weight[-1], y, balance)
        value = value + PENALTY * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach()


def _last_word(pipe: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """The position [N] of each text's last token, which the prompts that go on from it share."""
    return (tokenize(pipe, texts) == pipe.tokenizer.eos_token_id).int().argmax(1) - 1


@torch.no_grad()
def _states(pipe: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text states [N, L, D], float32."""
    parts = [encode_prompts(pipe, prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)]
    return torch.cat(parts).float()
