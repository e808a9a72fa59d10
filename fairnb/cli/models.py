"""The practitioner's commands: audit a model, find its bias neurons, train a patch, apply it, look at it, compare."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fairnb.cli.options import ProfileOption, SetOption, parse_changes
from fairnb.errors import UserError

models = typer.Typer()

ModelArgument = Annotated[str, typer.Argument(help="A diffusers folder or a hub id.")]
OutOption = Annotated[Path, typer.Option(help="A folder for the results.")]
PatchOption = Annotated[Path | None, typer.Option(help="A patch, LoRA or prefix tokens (.safetensors) to put on.")]
StrengthOption = Annotated[float, typer.Option(help="Of the patch: 0 is the original, 1 the debiased model.")]


def _settings(model: str, profile: str, change: list[str] | None):
    from fairnb.profiles import load_profile

    return load_profile(profile, {"model": model, **parse_changes(change)})


def _load(settings, patch: Path | None = None, strength: float = 1.0):
    import torch

    from fairnb.diffusion.pipeline import load_pipeline

    pipe = load_pipeline(
        settings.model, revision=settings.revision, device=settings.device, dtype=getattr(torch, settings.dtype)
    )
    if patch:
        from fairnb.adapters.load import load_adapter

        load_adapter(patch, pipe).apply(pipe, strength)
    return pipe


@models.command()
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
    """Who is in the pictures of a model? Draws, judges, and writes OUT/audit.html with all figures and tables.

    Example: fairnb audit data/mini-sd --attributes gender,age --images 32 --out audits/mini
    """
    from fairnb.diffusion.pipeline import overlong_prompts
    from fairnb.experiments.audit import audit as look_at
    from fairnb.prompts.attributes import get_attribute
    from fairnb.prompts.files import read_prompts
    from fairnb.prompts.sets import load_prompt_set, prompt_rows
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.faces import load_detector

    settings = _settings(model, profile, change)
    names = [get_attribute(name.strip()).name for name in attributes.split(",")] if attributes else settings.attributes
    rows = read_prompts(prompts) if prompts else prompt_rows(load_prompt_set(settings.prompts), "test")
    judge = load_classifier(settings.judge)
    pipe = _load(settings, patch, strength)
    for prompt in overlong_prompts(pipe, rows.prompt):
        typer.echo(f"the end of a prompt is not seen by the text encoder, it is too long: {prompt[:60]}...", err=True)
    page = look_at(
        pipe,
        rows,
        load_detector(pipe.device),
        judge.to(pipe.device),
        attributes=names,
        images=images,
        folder=out,
        profile=settings,
    )
    typer.echo(f"{page}: open it in a browser; the tables are in {out / 'tables'}")


@models.command()
def find(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The neurons' file (.safetensors).")],
    attribute: Annotated[str | None, typer.Option(help="Else the profile's.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Find the bias neurons of a model, over the profile's train occupations.

    Example: fairnb find data/mini-sd --attribute gender --out neurons.safetensors
    """
    from fairnb.adapters.neuron_sets import count_neurons
    from fairnb.experiments.methods import find_neurons
    from fairnb.prompts.sets import load_prompt_set

    settings = _settings(model, profile, change)
    pipe, words = _load(settings), load_prompt_set(settings.prompts)
    found = count_neurons(find_neurons(pipe, attribute or settings.attribute, settings, words, out))
    total = sum(weight.numel() for weight in pipe.unet.parameters())
    typer.echo(f"{out}: {found:,} of {total:,} weights ({found / total:.2%})")


@models.command()
def finetune(
    model: ModelArgument,
    neurons: Annotated[Path, typer.Option(help="What `fairnb find` wrote.")],
    out: OutOption,
    share: Annotated[
        str | None, typer.Option(help="Wanted shares in the order of the classes, such as 0.75,0.25; else equal.")
    ] = None,
    attribute: Annotated[str | None, typer.Option(help="Else the profile's.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train a patch: OUT/patch.safetensors, with a model card that says what it does to occupations not trained on.

    Killed and called again it goes on where it stopped.

    Example: fairnb finetune data/mini-sd --neurons neurons.safetensors --out patches/gender
    """
    from fairnb.adapters.bias_neurons import BiasNeurons
    from fairnb.adapters.model_cards import write_card
    from fairnb.adapters.neuron_sets import load_neurons
    from fairnb.adapters.patch import load_patch
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.evaluation import held_out_figures
    from fairnb.prompts.attributes import get_attribute
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.training.alignment import AlignmentRun
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.perception import load_vision_models

    settings = _settings(model, profile, change)
    about, words = get_attribute(attribute or settings.attribute), load_prompt_set(settings.prompts)
    shares = _shares(share, about)
    chosen = load_neurons(neurons)
    pipe = _load(settings)
    device = pipe.device
    vision = load_vision_models(settings, device)
    judge = load_classifier(settings.judge, device)
    adapter = BiasNeurons(pipe.unet, chosen, settings.finetune.acts_from)
    run = AlignmentRun(pipe, adapter, vision, {about.name: shares}, settings.finetune, settings.sampling, settings.seed)
    record = {
        "train": words.split("train"),
        "guide": ", ".join(source.model for source in settings.guide),
        "judge": ", ".join(source.model for source in settings.judge),
    }
    run.train(words.prompts("train"), words.prompts("validation"), out, record)
    patch = load_patch(out / "patch.safetensors", pipe)
    figures = held_out_figures(pipe, patch, words, vision.detector, judge, about.name, out, settings)
    if processes().is_main_process:
        write_card(out, base=settings.model, revision=settings.revision, figures=figures)
        typer.echo(f"{figures}\n{out / 'patch.safetensors'}; its card is {out / 'README.md'}")


def _shares(text: str | None, about) -> list[float]:
    if text is None:
        return [1 / len(about.classes)] * len(about.classes)
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--share {text} is not numbers: write one for each of {', '.join(about.classes)}") from error
    if len(shares) != len(about.classes) or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise UserError(
            f"--share {text} must be {len(about.classes)} numbers ({', '.join(about.classes)}) that sum to 1"
        )
    return shares


@models.command()
def guide(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
    attribute: Annotated[str | None, typer.Option(help="Else the profile's; of folders any name.")] = None,
    folder: Annotated[
        list[str] | None, typer.Option(help="CLASS=FOLDER of pictures, once for each class, instead of prompts.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Of each class, for example 0.7,0.3; else equal.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Per train prompt and class.")] = 12,
    mode: Annotated[
        Literal["assigned", "distribution", "sample"], typer.Option(help="What is steered, and how.")
    ] = "assigned",
    strength: Annotated[float, typer.Option(min=0, help="In logits.")] = 30.0,
    reliable: Annotated[
        float | None,
        typer.Option(min=0, help="Least reliability of a step that is guided; else .9, or .9 of the best where lower."),
    ] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train classifiers of h-space and write a guidance, which --patch of generate and audit reads. No weight changes.

    \b
    Examples:
      fairnb guide data/mini-sd --attribute gender --out guide.safetensors
      fairnb guide data/mini-sd --attribute hat --folder yes=hats --folder no=bare --out hats.safetensors
    """
    from fairnb.adapters.h_classifiers import h_classifier_from_folders, h_classifier_from_prompts
    from fairnb.adapters.h_guidance import HGuidance
    from fairnb.diffusion.pipeline import processes
    from fairnb.prompts.attributes import Attribute, get_attribute
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.vision.perception import load_vision_models

    settings = _settings(model, profile, change)
    if folder:
        places = dict(each.partition("=")[::2] for each in folder)
        if wrong := [name for name, place in places.items() if not name or not place]:
            raise UserError(f"--folder {wrong[0]} names no folder: write it as CLASS=FOLDER")
        about = Attribute(attribute or settings.attribute, tuple(places), tuple(places))
        shares, pipe = _shares(share, about), _load(settings)
        steps, batch = settings.sampling.steps, settings.sampling.batch
        made = h_classifier_from_folders(pipe, about.name, places, steps=steps, batch=batch, seed=settings.seed)
    else:
        about, words = get_attribute(attribute or settings.attribute), load_prompt_set(settings.prompts)
        shares, pipe = _shares(share, about), _load(settings)
        how = {"images": images, "sampling": settings.sampling, "seed": settings.seed}
        made = h_classifier_from_prompts(
            pipe, load_vision_models(settings, pipe.device), about.name, words.prompts("train"), **how
        )
    best = made.reliable.max().item()
    least = min(0.9, 0.9 * best) if reliable is None else reliable
    if not processes().is_main_process:
        return
    HGuidance([made], {about.name: shares}, strength, mode=mode, reliable=least).save(out)
    typer.echo(f"steps are guided where reliability is {least:.2f} or more; the best has {best:.2f}, chance is .50")
    typer.echo(f"{out}: see it with fairnb show {out}, use it with fairnb generate ... --patch {out}")


@models.command()
def apply(
    patch: Annotated[Path, typer.Argument(help="A patch (.safetensors).")],
    to: Annotated[str, typer.Option(help="The model it was made for: a diffusers folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="A new folder for the changed model.")],
    strength: StrengthOption = 1.0,
    revision: Annotated[str | None, typer.Option(help="Of the hub repository.")] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Let a patch for early steps act in all, since weights know no time.")
    ] = False,
) -> None:
    """Write a model with the patch merged in, which any diffusers loads without fairnb.

    Example: fairnb apply patches/gender/patch.safetensors --to data/mini-sd --strength 0.8 --out debiased
    """
    from fairnb.adapters.load import load_adapter
    from fairnb.diffusion.pipeline import load_pipeline, save_pipeline

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder")
    pipe = load_pipeline(to, revision=revision, device="cpu")
    adapter = load_adapter(patch, pipe)
    if adapter.acts_from and not everywhere:
        raise UserError(
            f"{patch} acts in early steps only, and a model's weights know no time: add --everywhere to let it act in "
            "all steps, or keep it a patch (fairnb generate --patch)"
        )
    adapter.acts_from = 0
    adapter.merge(pipe, strength)
    typer.echo(f"{save_pipeline(pipe, out)}: load it with StableDiffusionPipeline.from_pretrained")


@models.command()
def convert(
    files: Annotated[list[Path], typer.Argument(help="FFD's .pth files; a LoRA of text encoder and U-Net together.")],
    out: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
) -> None:
    """Turn the LoRA or prefix tokens that FFD released into a file that --patch and plain diffusers read.

    Example: fairnb convert text_encoder_lora_EMA.pth --out ffd-gender.safetensors
    """
    from fairnb.adapters.convert import convert as rename

    typer.echo(rename(files, out))


@models.command()
def experiment(
    names: Annotated[list[str] | None, typer.Argument(help="Of the profile's experiments; none means all.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train and evaluate experiments of a profile: LoRA, prefix tokens or bias neurons, for one target or several.

    Killed and called again it goes on where it stopped. Pictures, records and result.json lie in
    outputs/PROFILE/experiments/NAME; fairnb results prints them.

    Example: fairnb experiment exp-1 exp-2 --profile mini --set seed=1 --set name=mini-seed1
    """
    from fairnb.experiments.run import run_experiment
    from fairnb.profiles import load_profile
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.perception import load_vision_models

    settings = load_profile(profile, parse_changes(change))
    chosen = names or list(settings.experiments)
    for name in chosen:
        settings.finetune_of(name)  # a wrong name ends the call before the first training
    pipe = _load(settings)
    device = pipe.device
    vision = load_vision_models(settings, device)
    judge, words, known = load_classifier(settings.judge, device), load_prompt_set(settings.prompts), {}
    for name in chosen:
        run_experiment(pipe, vision, judge, words, settings, name, known)
        typer.echo(f"{name}: {settings.folder / 'experiments' / name / 'result.json'}")


@models.command()
def results(
    places: Annotated[
        list[Path], typer.Argument(help="Output folders of one profile, of several seeds, or files that --out wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the results there (.json).")] = None,
) -> None:
    """What did the experiments do? One line for each kind of prompts and attribute; means and spread over the seeds.

    Example: fairnb results outputs/mini outputs/mini-seed1 outputs/mini-seed2 --out experiments.json
    """
    from fairnb.experiments.results import read_results, results_table
    from fairnb.files import write_json

    found = read_results(places)
    typer.echo(results_table(found).to_string(na_rep="", line_width=120))
    if out:
        typer.echo(write_json(out, found))


@models.command()
def show(patch: Annotated[Path, typer.Argument(help="A patch, LoRA or prefix tokens (.safetensors).")]) -> None:
    """What does a patch, a LoRA or a prefix change, and on what was it trained?

    Example: fairnb show patches/gender/patch.safetensors
    """
    from fairnb.adapters.model_cards import describe

    typer.echo(describe(patch))


@models.command()
def compare(
    first: Annotated[Path, typer.Argument(help="An audit, or what fairnb spread wrote: the file or its folder.")],
    second: Annotated[Path, typer.Argument(help="An audit of the same prompts, or an output folder of a run.")],
) -> None:
    """Two audits: did the bias change, or could it be chance? A spread and a run: is the result reproduced?

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
