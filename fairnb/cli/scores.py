"""Commands about figures: the metrics of records, and how similar images are to prompts and to other images."""

from pathlib import Path
from typing import Annotated

import typer

from fairnb.cli.options import MEASURE, ProfileOption, SetOption, load_prompts, load_settings, parse_shares, typed
from fairnb.errors import UserError

commands = typer.Typer()


@commands.command(rich_help_panel=MEASURE)
def metrics(
    file: Annotated[Path, typer.Argument(help="Records (.parquet, .csv, FFD's .pkl), or the folder of an audit.")],
    attributes: Annotated[
        str | None, typer.Option(help="Comma-separated, jointly with +, as in gender,gender+age; else all.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Wanted shares of one attribute for FD, such as 0.75,0.25; else equal.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Print bias, fairness discrepancy (FD), deviation ratio (DR), diversity and shares, with n, floor and interval.

    Each is a mean over prompts; low and high are its 95 % interval, floor is what a perfectly fair generator would
    score on as many faces.

    \b
    Examples:
      fairnb metrics doctors.parquet
      fairnb metrics test_results.pkl --attributes gender --target 0.4,0.6
    """
    from fairnb.measure.metrics import scores
    from fairnb.measure.record_files import load_records
    from fairnb.measure.records import attributes_of
    from fairnb.prompts.attributes import joint_attribute

    records = load_records(file)
    chosen = attributes.split(",") if attributes else [about.name for about in attributes_of(records)]
    if not chosen:
        raise UserError(f"{file} holds no attribute: make the records with fairnb measure")
    abouts = [joint_attribute([part.strip() for part in name.split("+")]) for name in chosen]
    if target and len(abouts) > 1:
        raise UserError(f"--target {target} belongs to one attribute: add for example --attributes {abouts[0].name}")
    shares = parse_shares(target, abouts[0], "--target") if target else None
    lines = []
    for about in abouts:
        table = scores(records, about.name, shares, seed)
        names = {name: f"share of {name}" for name in about.classes} | ({"FD": f"FD to {target}"} if target else {})
        table = table.rename(index=names)
        faces = int(records.face.sum())
        size = f"{faces} faces in {len(records)} images of {records.prompt_id.nunique()} prompts"
        lines.append(f"{about.name}: {size}\n{table.round(3).to_string(na_rep='')}")
    typer.echo("\n\n".join(lines))


@commands.command(rich_help_panel=MEASURE)
def similarity(
    folder: Annotated[Path, typer.Argument(help="Images that fairnb generated, or folders prompt_0, prompt_1, ...")],
    other: Annotated[Path | None, typer.Argument(help="The images to compare with, such as the originals.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="The prompts of prompt_0, prompt_1, ..., if the folder does not tell.")
    ] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Print how well images fit their prompts (CLIP-T), and how near they are to others (CLIP-I, DINO, KID, FID).

    CLIP-I and DINO are mean cosines of images of the same prompt and number, and of one noise if fairnb drew them; KID
    and FID are distances of the two sets. The encoders are the profile's.

    \b
    Examples:
      fairnb similarity doctors
      fairnb similarity debiased originals
    """
    from fairnb.diffusion.pipeline import pick_device
    from fairnb.measure.similarity import fid, image_features, image_set, kid, paired, prompt_similarity
    from fairnb.vision.encoders import load_clip, load_dino

    settings = load_settings(None, profile, change)
    texts = load_prompts(typed(prompts)).prompt.tolist() if prompts else None
    places = [folder] if other is None else [folder, other]
    sets = [image_set(place, texts) for place in places]
    if other is None and sets[0].prompt.isna().any():
        raise UserError(f"{folder} does not tell its prompts: give --prompts FILE, whose first belongs to prompt_0")
    if prompts and all(each.seed.notna().all() for each in sets):
        raise UserError(f"--prompts {prompts} is not needed, since the images were drawn by fairnb: leave it out")
    device = pick_device(settings.device)
    clip = load_clip(settings.clip, device)
    features = [image_features(clip, each.file) for each in sets]
    for place, each, own in zip(places, sets, features, strict=True):
        told = each.prompt.notna().all()
        value = f"{prompt_similarity(clip, own, each.prompt.tolist()):.3f}" if told else "not measured: prompts unknown"
        typer.echo(f"CLIP-T  {value}  ({len(each)} images in {place})")
    if other is None:
        return
    pairs, why = paired(*sets)
    one, two = (pairs[name].tolist() for name in ("row", "row_other"))
    encoders = {"CLIP-I": features}
    if settings.dino and len(pairs):
        dino = load_dino(settings.dino, device)
        encoders["DINO"] = [image_features(dino, each.file) for each in sets]
    for name, (first, second) in encoders.items():
        value = f"{(first[one] * second[two]).sum(1).mean():.3f}" if len(pairs) else "not measured"
        typer.echo(f"{name:<7} {value}  ({len(pairs)} pairs, {why})")
    least, width = min(map(len, features)), features[0].shape[1]
    if least < 2:
        typer.echo("KID and FID are not measured: they need two images at least in each folder")
        return
    size = max(2, min(1000, least // 2))
    mean, std = kid(*features, size=size, seed=settings.seed)
    typer.echo(f"KID     {mean:.4f} ± {std:.4f}  (over 50 random subsets of {size} images)")
    typer.echo(f"FID     {fid(*features):.3f}  ({' and '.join(str(len(each)) for each in features)} images)")
    typer.echo(
        "KID and FID are of the profile's CLIP, not of Inception: compare them only with others of this profile. FID "
        f"is too high for few images{f', and means little below {width}' if least < width else ''}: rather trust KID."
    )
