"""The `fairnb` command: run notebooks, write the report, check the installation, generate, measure."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fairnb.cli.models import models
from fairnb.cli.options import ProfileOption, SetOption, parse_changes
from fairnb.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

app.add_typer(models)


@app.callback()
def fairnb() -> None:
    """Measure the social bias of Stable Diffusion, find the weights that carry it, fine-tune only those.

    \b
    Examples:
      fairnb run                                 the main path, notebooks 00-07, on mini-sd
      fairnb run 05 --set finetune.updates=10    one notebook, one setting changed
      fairnb generate "a photo of a doctor" --out doctors
      fairnb measure doctors                     who is in these pictures?
    """


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Numbers or names; none means 00-07.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder for results instead of the profile's.")] = None,
) -> None:
    """Run notebooks headless, only what is missing or changed.

    Example: fairnb run 02 03 --profile smoke --set measure.images=8
    """
    changes = parse_changes(change)
    from fairnb.experiments.notebooks import run_notebooks

    if not run_notebooks(notebooks, profile, changes, output):
        raise typer.Exit(1)


@app.command()
def report(profile: ProfileOption = "mini", change: SetOption = None) -> None:
    """Write outputs/PROFILE/report.html from what the notebooks made.

    Example: fairnb report --profile mini
    """
    from fairnb.figures.page import write_report
    from fairnb.profiles import load_profile

    typer.echo(write_report(load_profile(profile, parse_changes(change))))


@app.command()
def check() -> None:
    """Say of every package whether it is there and works, and what to do if not."""
    from fairnb.cli.check import check_environment

    if not check_environment():
        raise typer.Exit(1)


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts, in quotes.")],
    out: Annotated[Path, typer.Option(help="A new folder; images go to OUT/prompt_<i>/img_<j>.png.")],
    profile: ProfileOption = "mini",
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id instead of the profile's.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same images.")] = 0,
    patch: Annotated[Path | None, typer.Option(help="A patch, LoRA or prefix tokens (.safetensors).")] = None,
    strength: Annotated[float, typer.Option(help="Of the patch: 0 is the original, 1 the debiased model.")] = 1.0,
) -> None:
    """Draw images with or without a patch; a killed call, made again, goes on where it stopped.

    Example: fairnb generate "a photo of a doctor" --out doctors --patch outputs/mini/patch.safetensors --strength 0.5
    """
    from fairnb.diffusion.pipeline import load_pipeline
    from fairnb.measure.generate import generate as draw
    from fairnb.profiles import load_profile

    settings = load_profile(profile, {"model": model} if model else None)
    pipe = load_pipeline(settings.model, revision=settings.revision, device=settings.device)
    if patch:
        from fairnb.adapters.load import load_adapter

        load_adapter(patch, pipe).apply(pipe, strength)
    rows = [{"prompt_id": i, "prompt": text, "occupation": None, "split": "test"} for i, text in enumerate(prompts)]
    sampling = settings.sampling
    draw(
        pipe,
        rows,
        images=images,
        folder=out,
        seed=seed,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        batch=sampling.batch,
    )
    typer.echo(f"{images * len(rows)} images in {out}: now try fairnb measure {out}")


@app.command()
def measure(
    folder: Annotated[Path, typer.Argument(help="Images, or a folder of folders of images.")],
    profile: ProfileOption = "mini",
    out: Annotated[Path | None, typer.Option(help="Also write the records (.parquet).")] = None,
) -> None:
    """Find faces, judge them, print shares and bias for every prompt.

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
    for attribute in attributes_of(records):
        typer.echo(table_of(records, attribute.name) + "\n")
    if out:
        typer.echo(write_records(records, out))


@app.command()
def spread(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of the same profile with other seeds.")],
    out: Annotated[
        Path | None, typer.Option(help="The file (.json); else spread.json in the first folder, for its report.")
    ] = None,
) -> None:
    """How far do the headline figures of several runs spread, and where is a further run expected?

    Example: fairnb spread outputs/mini outputs/mini-seed1 outputs/mini-seed2
    """
    from fairnb.measure.spread import read_spread, write_spread

    path = write_spread(folders, out or folders[0] / "spread.json")
    typer.echo(f"{read_spread(path).round(3).to_string()}\n{path}")


def table_of(records: Any, attribute: str) -> str:
    """Shares and bias of one attribute per prompt, as text, with the mean and the floor below."""
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


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"fairnb: {error}", err=True)
        sys.exit(2)
