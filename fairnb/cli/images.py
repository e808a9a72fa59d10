"""Commands about images: generate them, measure who is in them, audit a model, compare two audits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fairnb.cli.options import (
    ModelArgument,
    OutOption,
    PatchOption,
    ProfileOption,
    SetOption,
    StrengthOption,
    load_model,
    load_settings,
)
from fairnb.errors import UserError

commands = typer.Typer()


@commands.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts, in quotes.")],
    out: Annotated[Path, typer.Option(help="A new folder; images go to OUT/prompt_<i>/img_<j>.png.")],
    profile: ProfileOption = "mini",
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id instead of the profile's.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    patch: PatchOption = None,
    strength: StrengthOption = 1.0,
) -> None:
    """Generate images, with or without a patch; a killed call resumes.

    Example: fairnb generate "a photo of a doctor" --out doctors --patch outputs/mini/patch.safetensors --strength 0.5
    """
    from fairnb.measure.generate import generate as generate_images

    settings = load_settings(model, profile, None)
    pipe = load_model(settings, patch, strength)
    rows = [{"prompt_id": i, "prompt": text, "occupation": None, "split": "test"} for i, text in enumerate(prompts)]
    generate_images(pipe, rows, images=images, folder=out, seed=seed, **settings.sampling.model_dump())
    typer.echo(f"{images * len(rows)} images in {out}: now try fairnb measure {out}")


@commands.command()
def measure(
    folder: Annotated[Path, typer.Argument(help="Images, or a folder of folders of images.")],
    profile: ProfileOption = "mini",
    out: Annotated[Path | None, typer.Option(help="Also write the records (.parquet).")] = None,
) -> None:
    """Find and judge the faces in images; print shares and bias for every prompt.

    Example: fairnb measure doctors --out doctors.parquet
    """
    from fairnb.diffusion.pipeline import pick_device
    from fairnb.measure.judge import judge_images
    from fairnb.measure.records import attributes_of, write_records
    from fairnb.profiles import load_profile
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector

    settings = load_profile(profile)
    device = pick_device(settings.device)
    records = judge_images(folder, load_detector(device), load_classifier(settings.judge, device))
    if skipped := records.attrs["skipped"]:
        kinds = ", ".join(f"{number} {kind}" for kind, number in skipped.items())
        typer.echo(f"skipped what is no picture: {kinds}\n")
    for attribute in attributes_of(records):
        typer.echo(table_of(records, attribute.name) + "\n")
    if out:
        typer.echo(write_records(records, out))


@commands.command()
def audit(
    model: ModelArgument,
    out: OutOption,
    prompts: Annotated[
        Path | None, typer.Option(help="Text, CSV or JSON; else the profile's test occupations.")
    ] = None,
    attributes: Annotated[str | None, typer.Option(help="Comma-separated; else the profile's.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Per prompt.")] = 64,
    patch: PatchOption = None,
    strength: StrengthOption = 1.0,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Who is in the images of a model? Generates, judges, and writes OUT/audit.html with figures and tables.

    Example: fairnb audit data/mini-sd --attributes gender,age --images 32 --out audits/mini
    """
    from fairnb.diffusion.pipeline import overlong_prompts, processes
    from fairnb.experiments.audit import audit as audit_model
    from fairnb.prompts.attributes import get_attribute
    from fairnb.prompts.files import read_prompts
    from fairnb.prompts.sets import load_prompt_set, prompt_rows
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector

    settings = load_settings(model, profile, change)
    names = [get_attribute(name.strip()).name for name in attributes.split(",")] if attributes else settings.attributes
    rows = read_prompts(prompts) if prompts else prompt_rows(load_prompt_set(settings.prompts), "test")
    judge = load_classifier(settings.judge)
    pipe = load_model(settings, patch, strength)
    for prompt in overlong_prompts(pipe, rows.prompt):
        typer.echo(f"this prompt is too long, the text encoder ignores its end: {prompt[:60]}...", err=True)
    page = audit_model(
        pipe,
        rows,
        load_detector(pipe.device),
        judge.to(pipe.device),
        attributes=names,
        images=images,
        folder=out,
        profile=settings,
    )
    if processes().is_main_process:
        typer.echo(f"{page}: open it in a browser; the tables are in {out / 'tables'}")


@commands.command()
def compare(
    first: Annotated[Path, typer.Argument(help="An audit, or what fairnb spread wrote: the file or its folder.")],
    second: Annotated[Path, typer.Argument(help="An audit of the same prompts, or an output folder of a run.")],
) -> None:
    """Compare two audits (did the bias change?), or a spread and a run (is the result reproduced?).

    \b
    Examples:
      fairnb compare audits/original audits/debiased
      fairnb compare data/mini-sd outputs/mini
    """
    several = first / "spread.json" if first.is_dir() else first
    typer.echo(_reproduced(several, second) if several.is_file() else _changed(first, second))


def _reproduced(several: Path, run: Path) -> str:
    from fairnb.measure.spread import place, read_run

    table = place(several, *read_run(run))
    outside = table.index[~table.inside]
    verdict = f"outside: {', '.join(outside)}" if len(outside) else "reproduced: every figure is inside"
    return f"{table.round(3).to_string()}\n{verdict}"


def _changed(first: Path, second: Path) -> str:
    from fairnb.measure.metrics import paired_difference, summarise
    from fairnb.measure.records import attributes_of, read_records

    for folder in (first, second):
        if not (folder / "records.parquet").is_file():
            raise UserError(f"{folder} holds neither an audit nor a spread: give a folder that fairnb audit wrote")
    tables = [read_records(folder / "records.parquet") for folder in (first, second)]
    common = [about.name for about in attributes_of(tables[0]) if about.name in tables[1]]
    if not common:
        raise UserError(f"{first} and {second} have no attribute in common: audit both with the same judge")
    lines = []
    for name in common:
        change = paired_difference(*tables, name)
        before, after = (summarise(table, name)["mean"] for table in tables)
        verdict = "no change is shown" if change["low"] <= 0 <= change["high"] else "a change"
        lines.append(
            f"{name}: bias {before:.3f} -> {after:.3f}, difference {change['mean']:+.3f} "
            f"[{change['low']:.3f}, {change['high']:.3f}] over {change['n_prompts']} prompts: {verdict}"
        )
    return "\n".join(lines)


def table_of(records: Any, attribute: str) -> str:
    """Shares and bias of one attribute per prompt, as text, with the mean bias and the floor."""
    from fairnb.measure.metrics import bias_by_prompt, summarise

    if not records.face.any():
        return f"{attribute}: no face was found in any of {len(records)} images, so its bias is undefined"
    table = bias_by_prompt(records, attribute).drop(columns=["prompt_id", "occupation", "split"])
    whole = summarise(records, attribute)
    return (
        f"{attribute}\n{table.round(3).to_string(index=False)}\n"
        f"mean bias {whole['mean']:.3f} over {whole['n_prompts']} prompts; a fair generator would score about "
        f"{whole['floor']:.3f}; {whole['faceless_share']:.1%} of {whole['n_images']} images have no face"
    )
