"""Commands about models: find bias neurons, train a patch or h-guidance, apply, convert and describe them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fairnb.cli.options import (
    DEBIAS,
    SHARD_DONE,
    ModelArgument,
    OutOption,
    ProfileOption,
    SetOption,
    ShardOption,
    ShareOption,
    StrengthOption,
    load_model,
    load_settings,
    parse_attributes,
    shares_of,
    typed,
)
from fairnb.errors import UserError

commands = typer.Typer()


@commands.command(rich_help_panel=DEBIAS)
def find(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The neurons' file: .safetensors, or .txt as Bias Neurons publishes it.")],
    attribute: Annotated[
        str | None, typer.Option(help="Comma-separated for several, whose neurons are united; else the profile's.")
    ] = None,
    shard: ShardOption = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Find the bias neurons of a model on the profile's train occupations.

    \b
    Examples:
      fairnb find data/mini-sd --attribute gender --out neurons.safetensors
      fairnb find data/mini-sd --attribute gender,skin_tone --out joint.safetensors
    """
    from fairnb.adapters.neuron_sets import count_neurons
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.methods import find_neurons
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.shards import read_shard

    settings, own = load_settings(model, profile, change), read_shard(shard)
    names = parse_attributes(attribute, [settings.attribute])
    if out.suffix not in (".safetensors", ".txt"):
        raise UserError(f"--out {out} has no form of neurons: name a file that ends in .safetensors or .txt")
    words = load_prompt_set(settings.prompts)
    pipe = load_model(settings)
    found = find_neurons(pipe, "+".join(names), settings, words, out, own)
    if own:
        typer.echo(SHARD_DONE.format(own))
        return
    found = count_neurons(found)
    total = sum(weight.numel() for weight in pipe.unet.parameters())
    if processes().is_main_process:
        typer.echo(f"{out}: {found:,} of {total:,} weights ({found / total:.2%})")


@commands.command(rich_help_panel=DEBIAS)
def finetune(
    model: ModelArgument,
    neurons: Annotated[Path, typer.Option(help="What `fairnb find` wrote, or a published list of flat indices.")],
    out: OutOption,
    share: ShareOption = None,
    attribute: Annotated[
        str | None, typer.Option(help="Comma-separated for several, which are aligned jointly; else the profile's.")
    ] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train a patch, OUT/patch.safetensors, with a model card that shows its effect on held-out occupations.

    A killed call resumes.

    \b
    Examples:
      fairnb finetune data/mini-sd --neurons neurons.safetensors --out patches/gender
      fairnb finetune data/mini-sd --neurons joint.safetensors --attribute gender,age --share 0.5,0.5 --share 0.75,0.25
        --out patches/joint
    """
    from fairnb.adapters.bias_neurons import BiasNeurons
    from fairnb.adapters.model_cards import write_card
    from fairnb.adapters.neuron_sets import load_neurons, read_flat_text
    from fairnb.adapters.patch import load_patch
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.evaluation import held_out_figures
    from fairnb.experiments.methods import target_shares
    from fairnb.profiles import Experiment
    from fairnb.prompts.attributes import get_attribute
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.training.alignment import AlignmentRun
    from fairnb.vision.classifiers import load_classifier
    from fairnb.vision.perception import load_vision_models

    settings = load_settings(model, profile, change)
    names = parse_attributes(attribute, [settings.attribute])
    shares = shares_of([get_attribute(name) for name in names], share)
    words = load_prompt_set(settings.prompts)
    neurons = typed(neurons)
    published = _is_flat_text(neurons)
    chosen = None if published else load_neurons(neurons)
    pipe = load_model(settings)
    device = pipe.device
    chosen = read_flat_text(neurons, pipe.unet) if published else chosen
    vision = load_vision_models(settings, device)
    judge = load_classifier(settings.judge, device)
    if missing := [name for name in names if name not in judge.classes]:
        raise UserError(f"the judge does not know '{missing[0]}': it knows {', '.join(judge.classes)}")
    adapter = BiasNeurons(pipe.unet, chosen, settings.finetune.acts_from)
    target = target_shares(Experiment(adapter="neurons", shares=shares))
    run = AlignmentRun(pipe, adapter, vision, target, settings.finetune, settings.sampling, settings.seed)
    record = {
        "train": words.split("train"),
        "guide": ", ".join(source.model for source in settings.guide),
        "judge": ", ".join(source.model for source in settings.judge),
    }
    run.train(words.prompts("train"), words.prompts("validation"), out, record)
    patch = load_patch(out / "patch.safetensors", pipe)
    figures = held_out_figures(pipe, patch, words, vision.detector, judge, names, out, settings)
    if processes().is_main_process:
        write_card(out, base=settings.model, revision=settings.revision, figures=figures)
        typer.echo(f"{figures}\n{out / 'patch.safetensors'}; its card is {out / 'README.md'}")


def _is_flat_text(path: Path) -> bool:
    """Whether a file begins with whole numbers in lines, as the index of Bias Neurons; a mark may precede."""
    try:
        with path.open("rb") as file:
            begins = file.read(64)
    except OSError:
        return False
    return bool(begins.strip()) and not begins.translate(None, b"0123456789- \t\r\n\xef\xbb\xbf")


@commands.command(rich_help_panel=DEBIAS)
def guide(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
    attribute: Annotated[
        str | None, typer.Option(help="One or several, such as gender,age; else the profile's; of folders any name.")
    ] = None,
    folder: Annotated[
        list[str] | None, typer.Option(help="CLASS=FOLDER of pictures, once for each class, instead of prompts.")
    ] = None,
    share: ShareOption = None,
    images: Annotated[int, typer.Option(min=1, help="Per train prompt and class.")] = 12,
    mode: Annotated[
        Literal["assigned", "distribution", "sample"], typer.Option(help="What is steered, and how.")
    ] = "assigned",
    strength: Annotated[float, typer.Option(min=0, help="In logits; with --raw of the gradient.")] = 30.0,
    raw: Annotated[bool, typer.Option("--raw", help="Multiply the gradient itself, as published.")] = False,
    both: Annotated[
        bool, typer.Option("--both", help="Guide the half of the empty prompt, too, as published; not for assigned.")
    ] = False,
    reliable: Annotated[
        float | None,
        typer.Option(min=0, help="Least reliability of a step that is guided; else .9, or .9 of the best where lower."),
    ] = None,
    shard: ShardOption = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train h-classifiers and write h-guidance, for --patch of generate and audit. No weight of the model changes.

    \b
    Examples:
      fairnb guide data/mini-sd --attribute gender --out guide.safetensors
      fairnb guide data/mini-sd --attribute gender,age --share 0.5,0.5 --share 0.7,0.3 --out both.safetensors
      fairnb guide data/mini-sd --attribute hat --folder yes=hats --folder no=bare --out hats.safetensors
    """
    from fairnb.adapters.h_classifiers import h_classifier_from_folders
    from fairnb.adapters.h_guidance import HGuidance, check_mode
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.methods import h_classifiers
    from fairnb.prompts.attributes import Attribute, get_attribute
    from fairnb.prompts.sets import load_prompt_set
    from fairnb.shards import find_parts, read_shard, remove_parts
    from fairnb.vision.perception import load_vision_models

    settings, own = load_settings(model, profile, change), read_shard(shard)
    names = (attribute or settings.attribute).split(",")
    if folder and own:
        raise UserError(f"--shard {shard} divides prompts, not the pictures of --folder: leave one of the two out")
    if folder:
        places = dict(each.partition("=")[::2] for each in folder)
        if wrong := [name for name, place in places.items() if not name or not place]:
            raise UserError(f"--folder {wrong[0]} names no folder: write it as CLASS=FOLDER")
        if len(names) > 1:
            raise UserError(f"--attribute {attribute} names several, but folders show one: name one")
        shares = shares_of([Attribute(names[0], tuple(places), tuple(places))], share)
        check_mode(mode, shares, both)
        pipe, steps, batch = load_model(settings), settings.sampling.steps, settings.sampling.batch
        made = [h_classifier_from_folders(pipe, names[0], places, steps=steps, batch=batch, seed=settings.seed)]
    else:
        shares = shares_of([get_attribute(name) for name in names], share)
        check_mode(mode, shares, both)
        words = load_prompt_set(settings.prompts)
        pipe = load_model(settings)
        vision = load_vision_models(settings, pipe.device)
        made = h_classifiers(pipe, vision, names, images, settings, words, out, own)
        if own:
            typer.echo(SHARD_DONE.format(own))
            return
    best = min(each.reliable.max().item() for each in made)
    least = min(0.9, 0.9 * best) if reliable is None else reliable
    if not processes().is_main_process:
        return
    HGuidance(made, shares, strength, mode=mode, reliable=least, both=both, raw=raw).save(out)
    if not folder:
        remove_parts(find_parts(out))
    typer.echo(f"steps are guided where reliability is {least:.2f} or more; the best has {best:.2f}, chance is .50")
    typer.echo(f"{out}: see it with fairnb show {out}, use it with fairnb generate ... --patch {out}")


@commands.command(rich_help_panel=DEBIAS)
def steer(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
    attribute: Annotated[
        str | None, typer.Option(help="One or several, such as gender,skin_tone; else the profile's.")
    ] = None,
    share: ShareOption = None,
    by: Annotated[
        Literal["tokens", "directions"],
        typer.Option(help="Append the states of the class word, or shift cross-attention along measured directions."),
    ] = "tokens",
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Make class tokens or class directions and a gate, for --patch of generate and audit. No weight changes.

    While sampling, each image gets a class drawn from the shares; prompts that name a class or show no person are left
    alone.

    \b
    Examples:
      fairnb steer data/mini-sd --out steer.safetensors
      fairnb steer data/mini-sd --attribute gender,age --share 0.5,0.5 --share 0.7,0.3 --out both.safetensors
    """
    from fairnb.adapters.model_cards import describe
    from fairnb.diffusion.pipeline import processes
    from fairnb.experiments.methods import make_class_directions, make_class_tokens
    from fairnb.prompts.attributes import get_attribute
    from fairnb.prompts.sets import load_prompt_set

    settings = load_settings(model, profile, change)
    shares = shares_of([get_attribute(name) for name in parse_attributes(attribute, [settings.attribute])], share)
    words = load_prompt_set(settings.prompts)
    make = make_class_tokens if by == "tokens" else make_class_directions
    made = make(load_model(settings), shares, words, settings)
    if processes().is_main_process:
        made.save(out)
        typer.echo(f"{describe(out)}\nuse it with fairnb generate ... --patch {out}")


@commands.command(rich_help_panel=DEBIAS)
def apply(
    patch: Annotated[Path, typer.Argument(help="A patch (.safetensors).")],
    to: Annotated[str, typer.Option(help="The model it was made for: a diffusers folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="A new folder for the changed model.")],
    strength: StrengthOption = 1.0,
    revision: Annotated[str | None, typer.Option(help="Of the hub repository.")] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Let a patch for early timesteps act in all of them.")
    ] = False,
) -> None:
    """Write a model with the patch merged in, which any diffusers pipeline loads without fairnb.

    Example: fairnb apply patches/gender/patch.safetensors --to data/mini-sd --strength 0.8 --out debiased
    """
    from fairnb.adapters.load import load_adapter
    from fairnb.diffusion.pipeline import load_pipeline, save_pipeline

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder")
    pipe = load_pipeline(typed(to), revision=revision, device="cpu")
    adapter = load_adapter(typed(patch), pipe)
    if adapter.acts_from and not everywhere:
        raise UserError(
            f"{patch} acts in early timesteps only, which weights cannot express: add --everywhere to let it act in "
            "all of them, or keep it a patch (fairnb generate --patch)"
        )
    if adapter.acts_from:
        typer.echo(
            f"{patch} was trained for early timesteps; in the late ones it may spoil images: audit {out}", err=True
        )
    adapter.acts_from = 0
    adapter.merge(pipe, strength)
    typer.echo(f"{save_pipeline(pipe, out)}: load it with StableDiffusionPipeline.from_pretrained")


@commands.command(rich_help_panel=DEBIAS)
def convert(
    files: Annotated[list[Path], typer.Argument(help="Files of PyTorch; a LoRA of text encoder and U-Net together.")],
    out: Annotated[Path, typer.Option(help="The file to write (.safetensors).")],
) -> None:
    """Convert a LoRA, prefix tokens or an embedding of PyTorch (.pth, .pt, .bin) for --patch and plain diffusers.

    So FFD published its own, and so do many training scripts. A whole U-Net needs none: give it as --patch.

    Example: fairnb convert text_encoder_lora_EMA.pth --out ffd-gender.safetensors
    """
    from fairnb.adapters.convert import convert as rename

    typer.echo(rename(files, out))


@commands.command(rich_help_panel=DEBIAS)
def show(patch: Annotated[Path, typer.Argument(help="A patch, LoRA or prefix tokens (.safetensors).")]) -> None:
    """Describe a patch, LoRA, prefix tokens or h-guidance: what it changes and how it was trained.

    Example: fairnb show patches/gender/patch.safetensors
    """
    from fairnb.adapters.model_cards import describe

    typer.echo(describe(typed(patch)))
