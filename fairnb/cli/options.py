"""What several commands share: options, the meaning of `--set`, and how a profile and its model are loaded."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fairnb.errors import UserError
from fairnb.files import SHIPPED, resolve

ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="A name in notebooks/profiles or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Change one key, such as finetune.updates=10; repeatable.")
]
ModelArgument = Annotated[str, typer.Argument(help="A diffusers folder or a hub id.")]
OutOption = Annotated[Path, typer.Option(help="A folder for the results.")]
PatchOption = Annotated[
    Path | None, typer.Option(help="A patch, LoRA, prefix tokens or h-guidance (.safetensors) to apply.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="Do a part only, such as 2/8; the same call without it joins all parts.")
]
SHARD_DONE = "shard {} is done: when all are, call again without --shard"
StrengthOption = Annotated[float, typer.Option(help="Of the patch: 0 is the original model, 1 the debiased one.")]

# The groups of `fairnb --help`, by what a user wants.
MEASURE, DEBIAS, COURSE = PANELS = ("Measure bias", "Reduce it", "Course and experiments")


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Turn ['a.b=1'] into {'a.b': 1}; values are YAML, so 1, true, [0, 1] and text keep their types."""
    values = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {change} is not key=value: write for example --set finetune.updates=10")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {change}: the value is not YAML ({' '.join(str(error).split())})") from error
    return values


ShareOption = Annotated[
    list[str] | None,
    typer.Option(
        "--share", help="Of each class, for example 0.7,0.3, once for each attribute in their order; else equal."
    ),
]


def parse_attributes(text: str | None, default: list[str]) -> list[str]:
    """Turn "gender,age" into the names of known attributes, each once."""
    from fairnb.prompts.attributes import get_attribute

    names = [get_attribute(name.strip()).name for name in text.split(",")] if text else default
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"the attribute {min(twice)} is named twice: name it once")
    return names


def parse_shares(text: str | None, about, option: str = "--share") -> list[float]:
    """Turn "0.75,0.25" into the shares of an attribute's classes; None means equal ones."""
    if text is None:
        return [1 / len(about.classes)] * len(about.classes)
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text} is not numbers: write one for each of {', '.join(about.classes)}") from error
    if len(shares) != len(about.classes) or not abs(sum(shares) - 1) <= 1e-6 or min(shares) < 0:
        raise UserError(
            f"{option} {text} must be {len(about.classes)} numbers ({', '.join(about.classes)}) that sum to 1"
        )
    return shares


def shares_of(attributes: list, share: list[str] | None) -> dict[str, list[float]]:
    """The shares of several attributes, given in their order or all equal."""
    if share and len(share) != len(attributes):
        names = ", ".join(about.name for about in attributes)
        raise UserError(f"--share is given {len(share)} times: give it once for each of {names}, or not")
    given = share or [None] * len(attributes)
    return {about.name: parse_shares(text, about) for about, text in zip(attributes, given, strict=True)}


def typed(path: str | Path) -> Path:
    """A path as the user typed it, or the file of the package that they named ("fairnb:...")."""
    return resolve(path) if str(path).startswith(SHIPPED) else Path(path)


def load_settings(model: str | None, profile: str, change: list[str] | None):
    """The profile with the changes, and with another model if one is named."""
    from fairnb.profiles import load_profile  # here and in every command: a typing error should not wait for torch

    return load_profile(profile, ({"model": model} if model else {}) | parse_changes(change))


def load_model(settings, patch: Path | None = None, strength: float = 1.0):
    """The pipeline of a profile, with a patch applied if there is one."""
    import torch

    from fairnb.adapters.load import load_adapter
    from fairnb.diffusion.pipeline import load_pipeline

    dtype = getattr(torch, settings.dtype)
    pipe = load_pipeline(settings.model, revision=settings.revision, device=settings.device, dtype=dtype)
    if patch:
        load_adapter(typed(patch), pipe).apply(pipe, strength)
    return pipe


def load_prompts(path: Path):
    """The prompts of a file; on stderr, what was made of those that are not drawn as they stand."""
    from fairnb.prompts.files import read_prompts

    rows = read_prompts(path)
    for note in rows.attrs["notes"]:
        typer.echo(note, err=True)
    return rows
