"""`fairnb triplets`: counterparts of photographs for contrastive training (DACL), from loading to building."""

from pathlib import Path
from typing import Annotated

import typer

from fairnb.cli.images import table_of
from fairnb.cli.options import ProfileOption, SetOption, load_model, load_settings, parse_attributes
from fairnb.errors import UserError

commands = typer.Typer(no_args_is_help=True)
Photographs = Annotated[Path, typer.Argument(help="A folder of photographs with captions (metadata.jsonl or .csv).")]
Labels = Annotated[Path, typer.Argument(help="What fairnb triplets label wrote.")]


@commands.callback()
def triplets() -> None:
    """Make triplets of photographs, generated counterparts and controls: load, label, analyse, build.

    \b
    Examples, one after the other:
      fairnb triplets load images --mpii mpii_human_pose_v1_u12_1.mat
      fairnb triplets label images --out labels.parquet
      fairnb triplets analyse labels.parquet
      fairnb triplets build images labels.parquet
      fairnb experiment dacl-joint
    """


@commands.command()
def load(
    images: Annotated[Path, typer.Argument(help="A folder of photographs.")],
    mpii: Annotated[
        Path | None, typer.Option(help="MPII's annotation (.mat), which is written as IMAGES/metadata.csv.")
    ] = None,
) -> None:
    """Check the captions of a folder of photographs, or write those of MPII Human Pose.

    Example: fairnb triplets load images --mpii mpii_human_pose_v1_u12_1.mat
    """
    from fairnb.files import write_atomically
    from fairnb.measure.photographs import CAPTIONS, read_captioned, read_mpii

    if mpii:
        if there := [name for name in CAPTIONS if (images / name).is_file()]:
            raise UserError(f"{images / there[0]} is there already: leave --mpii out, or remove it")
        lines = read_mpii(mpii, images).set_axis(["file_name", "text", "activity"], axis=1)
        write_atomically(images / "metadata.csv", lambda path: lines.to_csv(path, index=False))
    photos = read_captioned(images)
    missing = f"; {number} more are named and not there" if (number := photos.attrs["missing"]) else ""
    typer.echo(f"{len(photos)} photographs of {photos.activity.nunique()} activities in {images}{missing}")


@commands.command()
def label(
    images: Photographs,
    out: Annotated[Path, typer.Option(help="The labels to write (.parquet or .csv).")],
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Label the photographs that show exactly one face, by the profile's guide.

    Example: fairnb triplets label images --out labels.parquet
    """
    from fairnb.diffusion.pipeline import pick_device
    from fairnb.measure.photographs import one_person, read_captioned
    from fairnb.measure.record_files import check_suffix, save_records
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector

    if check_suffix(out) == ".pkl":
        raise UserError(f"{out}: FFD's form holds no captions: name a file that ends in .parquet or .csv")
    settings = load_settings(None, profile, change)
    photos, device = read_captioned(images), pick_device(settings.device)
    alone = one_person(photos, images, load_detector(device), load_classifier(settings.guide, device))
    save_records(alone, out)
    typer.echo(f"{out}: {len(alone)} of {len(photos)} photographs show exactly one face")


@commands.command()
def analyse(labels: Labels) -> None:
    """Print the shares of each activity and their bias, with intervals: what training on the photographs would teach.

    Example: fairnb triplets analyse labels.parquet
    """
    from fairnb.measure.record_files import load_records
    from fairnb.measure.records import attributes_of

    records = load_records(labels)
    typer.echo("\n\n".join(table_of(records, about.name) for about in attributes_of(records)))


@commands.command()
def build(
    images: Photographs,
    labels: Labels,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder; else that of the profile, where fairnb experiment looks for triplets."),
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(help="Comma-separated: what the positive changes; else the profile's first two.")
    ] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Generate a positive (other classes) and a negative (the same classes) of each photograph, and check them.

    A killed call resumes.

    Example: fairnb triplets build images labels.parquet --attributes gender,skin_tone --out triplets
    """
    from fairnb.measure.record_files import load_records
    from fairnb.training.triplets import make_triplets
    from fairnb.vision.perception import load_vision_models

    settings = load_settings(None, profile, change)
    names, records = parse_attributes(attributes, settings.attributes[:2]), load_records(labels)
    if "caption" not in records:
        raise UserError(f"{labels} holds no captions: label the photographs with fairnb triplets label")
    if missing := [path for path in records.path if not (images / path).is_file()]:
        raise UserError(f"{images} has no {missing[0]}, which {labels} names: give the folder that was labelled")
    pipe = load_model(settings)
    vision, out = load_vision_models(settings, pipe.device), out or settings.folder / "triplets"
    how = {"attributes": names, "sampling": settings.sampling, "seed": settings.seed}
    made = make_triplets(pipe, vision, records, images, out, **how)
    typer.echo(
        f"{out}: {made.triplet.nunique()} triplets; {made.attrs['left_out']} photographs have none, "
        f"{made.attrs['rejected']} generated images were rejected"
    )
