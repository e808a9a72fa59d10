"""Commands about images: generate them, measure who is in them, audit a model, compare two audits."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fairnb.cli.options import (
    MEASURE,
    SHARD_DONE,
    ModelArgument,
    OutOption,
    PatchOption,
    ProfileOption,
    SetOption,
    ShardOption,
    StrengthOption,
    load_model,
    load_prompts,
    load_settings,
    parse_attributes,
    typed,
)
from fairnb.errors import UserError

commands = typer.Typer()


@commands.command(rich_help_panel=MEASURE)
def generate(
    out: Annotated[Path, typer.Option(help="A new folder; images go to OUT/prompt_<i>/img_<j>.png.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="One or more prompts, in quotes.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts instead: text, CSV or JSON.")] = None,
    negative: Annotated[str, typer.Option(help="A negative prompt: what no image should show.")] = "",
    profile: ProfileOption = "mini",
    change: SetOption = None,
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id instead of the profile's.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 16,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same images; else the profile's.")
    ] = None,
    patch: PatchOption = None,
    strength: StrengthOption = 1.0,
    form: Annotated[Literal["png", "jpg"], typer.Option(help="Of the files; png is lossless.")] = "png",
    shard: ShardOption = None,
) -> None:
    """Generate images, with or without a patch; a killed call resumes. Steps, guidance and dtype are the profile's.

    \b
    Examples:
      fairnb generate "a photo of a doctor" --out doctors --patch outputs/mini/patch.safetensors --strength 0.5
      fairnb generate --prompts fairnb:data/prompts/winobias.json --profile sd15 --set sampling.steps=30 --out winobias
    """
    from fairnb.adapters.prefix import HELD
    from fairnb.diffusion.pipeline import processes
    from fairnb.measure.generate import generate as generate_images
    from fairnb.shards import read_shard

    own = read_shard(shard)
    if bool(texts) == bool(prompts):
        raise UserError("give prompts in quotes, or a file of them as --prompts FILE" + (", not both" if texts else ""))
    if texts and (file := next((text for text in texts if Path(text).is_file()), None)):
        raise UserError(f"the prompt {file} is a file: give it as --prompts {file}")
    for text in texts or []:
        if not text.strip() or texts.count(text) > 1:
            raise UserError(f"the prompt '{text}' is {'given twice' if text.strip() else 'blank'}: leave it out")
    if prompts:
        rows = load_prompts(typed(prompts)).to_dict("records")
    else:
        rows = [{"prompt_id": i, "prompt": text, "occupation": None, "split": "test"} for i, text in enumerate(texts)]
    settings = load_settings(model, profile, change)
    pipe = load_model(settings, patch, strength)
    if negative and HELD in dict(pipe.text_encoder.named_parameters()):
        raise UserError(f"--negative would get the prefix tokens of {patch}, too: leave one of the two out")
    _say_overlong(pipe, [*(row["prompt"] for row in rows), negative])
    seed = settings.seed if seed is None else seed
    how = settings.sampling.model_dump() | {"images": images, "seed": seed, "negative": negative, "form": form}
    generate_images(pipe, rows, folder=out, shard=own, **how)
    if processes().is_main_process and own:
        typer.echo(SHARD_DONE.format(own))
    elif processes().is_main_process:
        typer.echo(f"{images * len(rows)} images in {out}: now try fairnb measure {out}")


def _say_overlong(pipe: Any, prompts: list[str]) -> None:
    from fairnb.diffusion.pipeline import overlong_prompts

    for prompt in overlong_prompts(pipe, prompts):
        typer.echo(f"this prompt is too long, the text encoder ignores its end: {prompt[:60]}...", err=True)


@commands.command(rich_help_panel=MEASURE)
def measure(
    folder: Annotated[
        Path, typer.Argument(help="Images, a folder of folders of images, or records such as FFD's test_results.pkl.")
    ],
    profile: ProfileOption = "mini",
    out: Annotated[Path | None, typer.Option(help="Also write the records: .parquet, .csv, or .pkl as FFD.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a new folder with audit.html, figures, tables and records.")
    ] = None,
    shard: ShardOption = None,
    change: SetOption = None,
) -> None:
    """Find and judge the faces in images; print shares and bias for every prompt.

    \b
    Examples:
      fairnb measure doctors --out doctors.parquet
      fairnb measure doctors --out test_results.pkl --report doctors-audit
      fairnb measure doctors --out doctors.parquet --shard 1/4
    """
    from fairnb.diffusion.pipeline import pick_device
    from fairnb.experiments.audit import write_audit
    from fairnb.measure.judge import join_parts, judge_identity, judge_images, read_part, write_part
    from fairnb.measure.provenance import provenance
    from fairnb.measure.record_files import check_suffix, left_out, load_records, save_records
    from fairnb.measure.records import attributes_of
    from fairnb.shards import find_parts, is_done, read_shard, remove_parts
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector
    from fairnb.vision.perception import classifier_hash

    if out:
        check_suffix(out)
    if report and report.exists() and (not report.is_dir() or any(report.iterdir())):
        raise UserError(f"{report} is not empty: give a new folder")
    settings, own = load_settings(None, profile, change), read_shard(shard)
    if own and (folder.is_file() or out is None):
        raise UserError(f"--shard {shard} judges images and writes beside --out: give a folder of images, and --out")
    accuracy, sources, seen_by, place, parts = {}, [], "not recorded", folder.parent, []
    if folder.is_file():
        records = load_records(folder)
    else:
        device, place = pick_device(settings.device), folder
        judge = load_classifier(settings.judge, device)
        whole = out and out.with_suffix(".parquet")
        if own:
            identity = judge_identity(folder, judge)
            if not is_done(own.part(whole), lambda part: read_part(part, identity)):
                write_part(judge_images(folder, load_detector(device), judge, shard=own), own.part(whole), identity)
            typer.echo(SHARD_DONE.format(own))
            return
        if parts := find_parts(whole) if out else []:
            records = join_parts(folder, parts, judge_identity(folder, judge))
        else:
            records = judge_images(folder, load_detector(device), judge)
        accuracy, sources = judge.accuracy, [source.model for source in settings.judge]
        seen_by = classifier_hash(judge)
        if skipped := records.attrs["skipped"]:
            kinds = ", ".join(f"{number} {kind}" for kind, number in skipped.items())
            typer.echo(f"skipped what is no picture: {kinds}\n")
    names = [about.name for about in attributes_of(records)]
    for name in names:
        typer.echo(table_of(records, name) + "\n")
    if out:
        if lost := left_out(records, out):
            typer.echo(f"{out}: FFD's form has no {' and no '.join(lost)}, which is left out", err=True)
        typer.echo(save_records(records, out))
        remove_parts(parts)
    if report:
        made = {"images": str(folder), "judge": ", ".join(sources) or "not recorded"}
        about = {"provenance": provenance(made), "identity": {"judge": seen_by}}
        title, remark = f"Who is in the pictures of {folder.name}?", f"{len(records)} images; measured by fairnb."
        typer.echo(write_audit(records, report, place, names, accuracy, about, title, remark))


@commands.command(rich_help_panel=MEASURE)
def audit(
    model: ModelArgument,
    out: OutOption,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Text, CSV or JSON (FILE:NAME is one of its lists); else the profile's test occupations."),
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
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.audit import audit as audit_model
    from fairnb.identity import content
    from fairnb.prompts.sets import load_prompt_set, prompt_rows
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector

    settings = load_settings(model, profile, change)
    if prompts:
        settings = settings.model_copy(update={"prompts": str(typed(prompts).absolute())})
    names = parse_attributes(attributes, settings.attributes)
    rows = load_prompts(typed(prompts)) if prompts else prompt_rows(load_prompt_set(settings.prompts), "test")
    judge = load_classifier(settings.judge)
    pipe = load_model(settings, patch, strength)
    _say_overlong(pipe, rows.prompt.tolist())
    page = audit_model(
        pipe,
        rows,
        load_detector(pipe.device),
        judge.to(pipe.device),
        attributes=names,
        images=images,
        folder=out,
        profile=settings,
        patch=patch and {"name": patch.name, "content": content(typed(patch)), "strength": strength},
    )
    if processes().is_main_process:
        typer.echo(f"{page}: open it in a browser; the tables are in {out / 'tables'}")


@commands.command(rich_help_panel=MEASURE)
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
    first, second = typed(first), typed(second)
    several = first / "spread.json" if first.is_dir() else first
    typer.echo(_reproduced(several, second) if several.is_file() else _changed(first, second))


def _reproduced(several: Path, run: Path) -> str:
    from fairnb.measure.spread import place, read_run

    table = place(several, *read_run(run))
    outside = table.index[~table.inside]
    verdict = f"outside: {', '.join(outside)}" if len(outside) else "reproduced: every figure is inside"
    return f"{table.round(3).to_string()}\n{verdict}"


def _changed(first: Path, second: Path) -> str:
    from fairnb.experiments.audit import audit_identity
    from fairnb.identity import refuse_another
    from fairnb.measure.metrics import paired_difference, summarise
    from fairnb.measure.records import attributes_of, read_records

    for folder in (first, second):
        if not (folder / "records.parquet").is_file():
            raise UserError(f"{folder} holds neither an audit nor a spread: give a folder that fairnb audit wrote")
    settings = [audit_identity(folder) for folder in (first, second)]
    refuse_another(*settings, str(first), f"audit both in the way of {second}, or of {first}")
    tables = [read_records(folder / "records.parquet") for folder in (first, second)]
    common = [about.name for about in attributes_of(tables[0]) if about.name in tables[1]]
    if not common:
        raise UserError(f"{first} and {second} have no attribute in common: audit both with the same judge")
    lines = []
    for name in common:
        change = paired_difference(*tables, name)
        before, after = (summarise(table, name)["mean"] for table in tables)
        verdict = "no change is shown" if change["low"] <= 0 <= change["high"] else "a change"
        if change["n_prompts"] < 2:
            verdict = "undecided, since an interval needs two prompts with faces in both audits"
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
