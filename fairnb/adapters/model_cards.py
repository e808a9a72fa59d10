"""Descriptions of adapters: the lines of `fairnb show`, and the model card of a patch folder."""

from pathlib import Path

from fairnb.adapters.bias_neurons import KIND
from fairnb.adapters.class_directions import KIND as DIRECTIONS
from fairnb.adapters.class_directions import load_class_directions
from fairnb.adapters.class_steering import ClassSteering
from fairnb.adapters.class_tokens import KIND as TOKENS
from fairnb.adapters.class_tokens import load_class_tokens
from fairnb.adapters.full import KIND as FULL
from fairnb.adapters.h_guidance import KIND as GUIDANCE
from fairnb.adapters.h_guidance import load_h_guidance
from fairnb.adapters.lora_files import read_factors
from fairnb.adapters.patch import read_header
from fairnb.adapters.protocol import read_weights
from fairnb.files import write_atomically
from fairnb.prompts.attributes import get_attribute

CARD = """---
base_model: {base}
tags: [stable-diffusion, bias, fairnb]
---

# A patch of bias neurons for {base}

`patch.safetensors` changes {count:,} weights of the U-Net in {tensors} tensors{when}, so that people in its images
are perceived as {target}.

- **Base model**: {base}, revision {revision}; U-Net fingerprint `{fingerprint}`. Another base is refused.
- **Trained on** "a photo of a ..." with {prompts}.
- **Guide** (its gradients trained): {guide}. **Judge** (took no part): {judge}.
- **Training**: {updates} updates of {images} images, seed {seed}.

## Figures

{figures}

## Use

```bash
fairnb generate "a photo of a doctor" --out doctors --model {base} --patch patch.safetensors
```

## Limits

- Classes are perceived appearance as a classifier sees it, not anybody's identity, and the classifier errs.
- The figures hold for these prompts and settings. Other prompts may be less balanced, and other attributes may shift.
- Balanced shares are one notion of fairness; which target is right for a use is not for a patch to say.
"""


def describe(path: str | Path) -> str:
    """Describe any adapter's file, for `fairnb show`."""
    if Path(path).is_file() and (other := _values(path) or _guidance(path) or _steering(path)):
        return other
    header = read_header(path)
    blocks: dict[str, int] = {}
    for name, number in header.neurons.items():
        block = ".".join(name.split(".")[:2]) if name.startswith(("down", "up")) else name.split(".")[0]
        blocks[block] = blocks.get(block, 0) + number
    total, size = sum(blocks.values()), Path(path).stat().st_size
    lines = [
        f"{path}: {total:,} weights in {len(header.neurons)} tensors, {size / 1e6:.2f} MB",
        f"for the base U-Net {header.base[:16]}...; acts {_when(header.acts_from)}",
        "changes " + ", ".join(f"{block} {number:,}" for block, number in sorted(blocks.items())),
    ]
    return "\n".join([*lines, *_lines(header.record)])


def _values(path: str | Path) -> str | None:
    """Describe full weights, a LoRA or prefix tokens; None for any other file."""
    tensors, about, record = read_weights(path)
    full = about.get("kind") == FULL
    lora_or_prefix = len(tensors) == 1 or any("lora" in name for name in tensors)
    if about.get("kind") in (KIND, GUIDANCE, DIRECTIONS, TOKENS) or not (full or lora_or_prefix):
        return None
    factors = read_factors(path, tensors, about) if len(tensors) > 1 and not full else {}
    ranks = [len(factor) for name, factor in factors.items() if name.endswith(".lora_A.weight")]
    size = f"{sum(tensor.numel() for tensor in tensors.values()):,} numbers, {Path(path).stat().st_size / 1e6:.2f} MB"
    if full:
        parts = " and ".join(sorted({name.split(".")[0] for name in tensors}))
        what = f"all weights of {parts}, of which {len(tensors)} tensors changed"
    elif ranks:
        parts = " and ".join(sorted({name.split(".")[0] for name in factors}))
        what = f"LoRA of rank {max(ranks)} in {len(ranks)} layers of {parts}"
    else:
        what = "prefix tokens, " + ", ".join(" x ".join(map(str, tensor.shape)) for tensor in tensors.values())
    return "\n".join([f"{path}: {what}; {size}", *_lines(record)])


def _guidance(path: str | Path) -> str | None:
    """Describe h-guidance; None for any other file."""
    if read_weights(path)[1].get("kind") != GUIDANCE:
        return None
    guidance = load_h_guidance(path, "cpu")
    lines = [
        f"{path}: guided sampling, mode {guidance.mode}, strength {guidance.strength:g}, where reliability is at least "
        f"{guidance.reliable:.2g}; {Path(path).stat().st_size / 1e6:.2f} MB"
    ]
    for name, each in guidance.classifiers.items():
        shares = _short(dict(zip(each.classes, guidance.shares[name].tolist(), strict=True)))
        steps = zip(each.timesteps.tolist(), each.reliable.tolist(), strict=True)
        lines += [f"{name}: {shares}", "reliable by timestep: " + ", ".join(f"{at:.0f} {how:.2f}" for at, how in steps)]
    return "\n".join([*lines, *_lines(guidance.metadata)])


def _steering(path: str | Path) -> str | None:
    """Describe class directions or class tokens; None for any other file."""
    kind = read_weights(path)[1].get("kind")
    if kind == DIRECTIONS:
        made: ClassSteering = load_class_directions(path, "cpu")
        one = next(iter(made.directions.values()))
        what = f"class directions in {len(one.basis)} cross-attention layers at {len(one.timesteps)} timesteps"
    elif kind == TOKENS:
        made = load_class_tokens(path, "cpu")
        what = f"class tokens, {sum(len(word) for each in made.states.values() for word in each)} in all"
    else:
        return None
    lines = [f"{path}: {what}; {Path(path).stat().st_size / 1e6:.2f} MB"]
    for name, shares in made.shares.items():
        lines.append(f"{name}: {_short(dict(zip(get_attribute(name).classes, shares.tolist(), strict=True)))}")
    for what, errors in made.gate.errors.items():
        lines.append(f"gate, {what}: " + ", ".join(f"{share:.1%} {kind}" for kind, share in errors.items()))
    return "\n".join([*lines, *_lines(made.metadata)])


def write_card(folder: str | Path, *, base: str, revision: str | None, figures: str) -> Path:
    """Write README.md for a folder's patch.safetensors, from its header and the `figures` (Markdown)."""
    header = read_header(Path(folder) / "patch.safetensors")
    record, settings = header.record, header.record.get("settings", {})
    text = CARD.format(
        base=base,
        revision=revision or "not pinned",
        fingerprint=header.base,
        count=sum(header.neurons.values()),
        tensors=len(header.neurons),
        when="" if not header.acts_from else f", {_when(header.acts_from)}",
        target="; ".join(f"{name} {_short(shares)}" for name, shares in record.get("target", {}).items()),
        prompts=", ".join(record.get("train", [])) or "prompts that are not recorded",
        guide=record.get("guide", "not recorded"),
        judge=record.get("judge", "not recorded"),
        updates=record.get("updates"),
        images=settings.get("images"),
        seed=record.get("seed"),
        figures=figures,
    )
    return write_atomically(Path(folder) / "README.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _when(acts_from: int) -> str:
    return f"in steps of timestep {acts_from} and more" if acts_from else "in every step"


def _lines(record: dict) -> list[str]:
    """A training record without its identity, which repeats the settings and holds hashes."""
    return [f"{key}: {_short(value)}" for key, value in record.items() if key != "identity"]


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    return " / ".join(map(str, value)) if isinstance(value, list) else str(value)
