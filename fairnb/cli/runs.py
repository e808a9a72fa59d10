"""Commands about whole runs: notebooks, the report, experiments and their results, the spread over seeds."""

from pathlib import Path
from typing import Annotated

import typer

from fairnb.cli.options import COURSE, ProfileOption, SetOption, load_model, parse_changes, typed
from fairnb.errors import UserError

commands = typer.Typer()


@commands.command(rich_help_panel=COURSE)
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Numbers or names; none means 00-07.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder for results instead of the profile's.")] = None,
) -> None:
    """Run notebooks headless, only those that are missing or out of date.

    Example: fairnb run 02 03 --profile smoke --set measure.images=8
    """
    changes = parse_changes(change)
    from fairnb.experiments.notebooks import run_notebooks

    if not run_notebooks(notebooks, profile, changes, output):
        raise typer.Exit(1)


@commands.command(rich_help_panel=COURSE)
def report(profile: ProfileOption = "mini", change: SetOption = None) -> None:
    """Write outputs/PROFILE/report.html from the results of the notebooks.

    Example: fairnb report --profile mini
    """
    from fairnb.figures.page import write_report
    from fairnb.profiles import load_profile

    typer.echo(write_report(load_profile(profile, parse_changes(change))))


@commands.command(rich_help_panel=COURSE)
def experiment(
    names: Annotated[list[str] | None, typer.Argument(help="Of the profile's experiments; none means all.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """Train and evaluate experiments of a profile: bias neurons, LoRA, prefix tokens, h-guidance.

    A killed call resumes. Images, records and result.json lie in outputs/PROFILE/experiments/NAME; fairnb results
    prints them.

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
    pipe = load_model(settings)
    device = pipe.device
    vision = load_vision_models(settings, device)
    judge, prompts, originals = load_classifier(settings.judge, device), load_prompt_set(settings.prompts), {}
    for name in chosen:
        run_experiment(pipe, vision, judge, prompts, settings, name, originals)
        typer.echo(f"{name}: {settings.folder / 'experiments' / name / 'result.json'}")


@commands.command(rich_help_panel=COURSE)
def units(
    names: Annotated[list[str] | None, typer.Argument(help="Of the profile's experiments; none means all.")] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated; each has a folder of its own, NAME-seedSEED.")] = "0",
    chain: Annotated[bool, typer.Option("--chain", help="The main path, 03 to 07, instead of experiments.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Run them here, so many at a time.")] = None,
    profile: ProfileOption = "mini",
    change: SetOption = None,
) -> None:
    """List units of work, a command a line: for a job array, an Indexed Job, a workflow; or run them with --jobs.

    Each unit resumes when it is started again.

    
    Examples:
      fairnb units exp-1 exp-2 --seeds 0,1,2
      fairnb units --chain --seeds 1,2,3,4 --jobs 2
    """
    from fairnb.experiments.units import list_units, run_units
    from fairnb.profiles import load_profile

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {seeds} is no list of whole numbers: write for example 0,1,2") from error
    settings = load_profile(profile, parse_changes(change))
    listed = list_units(names or [], settings, profile, change or [], numbers, chain)
    if jobs is None:
        typer.echo("\n".join(unit.line() for unit in listed))
    elif not run_units(listed, jobs, settings.folder.parent / "units"):
        raise typer.Exit(1)


@commands.command(rich_help_panel=COURSE)
def sync(
    source: Annotated[str, typer.Argument(help="A folder, or a URL of fsspec such as s3://bucket/mini.")],
    target: Annotated[str, typer.Argument(help="The same, for the copy.")],
) -> None:
    """Copy results to a store or back, only what is new: for machines without a common disk.

    Example: fairnb sync outputs/mini file:///mnt/store/mini
    """
    from fairnb.experiments.sync import sync as copy

    copied, current = copy(source, target)
    typer.echo(f"{copied} files copied to {target}, {current} were current")


@commands.command(rich_help_panel=COURSE)
def results(
    places: Annotated[
        list[Path], typer.Argument(help="Output folders of one profile, of several seeds, or files that --out wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the results (.json), or a model's page (.md).")] = None,
) -> None:
    """Print the results of experiments, per kind of prompts and attribute: means and spread over the seeds.

    \b
    Examples:
      fairnb results outputs/mini outputs/mini-seed1 outputs/mini-seed2 --out experiments.json
      fairnb results data/mini-sd --out data/mini-sd/RESULTS.md
    """
    from fairnb.experiments.results import read_results, results_table
    from fairnb.experiments.results_page import write_results_page
    from fairnb.files import write_json

    page = out is not None and out.suffix == ".md"
    if page and len(places) > 1:
        raise UserError(f"{out} is the page of one model, but {len(places)} folders are named: name one, or a .json")
    places = [typed(place) for place in places]
    found = read_results(places)
    typer.echo(results_table(found).to_string(na_rep="", line_width=120))
    if out:
        typer.echo(write_results_page(places[0], found, out) if page else write_json(out, found))


@commands.command(rich_help_panel=COURSE)
def leaderboard(
    places: Annotated[
        list[Path] | None,
        typer.Argument(help="As of fairnb results; none means the results that come with mini-sd."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table (.md).")] = None,
) -> None:
    """Print a row for each method: bias with interval and floor, what must not break, and what it costs.

    Means over seeds. Results of different models, prompts, judges or evaluations are refused; missing seeds and
    diverged trainings are named.

    \b
    Examples:
      fairnb leaderboard
      fairnb leaderboard outputs/experiments-seed0 outputs/experiments-seed1 --out leaderboard.md
    """
    from fairnb.experiments.leaderboard import leaderboard_markdown
    from fairnb.experiments.results import read_results
    from fairnb.files import root, write_atomically

    text = leaderboard_markdown(read_results([typed(place) for place in places or [root() / "data" / "mini-sd"]]))
    typer.echo(text)
    if out:
        write_atomically(out, lambda path: path.write_text(f"{text}\n", encoding="utf-8"))


@commands.command(rich_help_panel=COURSE)
def spread(
    places: Annotated[
        list[Path],
        typer.Argument(help="Output folders of one profile with different seeds, or files that this command wrote."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file (.json); else spread.json in the first folder, for its report.")
    ] = None,
) -> None:
    """Print the spread of the headline figures of several runs, and where a further run is expected.

    \b
    Examples:
      fairnb spread outputs/mini outputs/mini-seed1 outputs/mini-seed2
      fairnb spread data/mini-sd/spread.json outputs/mini-seed3 --out spread.json
    """
    from fairnb.measure.spread import read_spread, write_spread

    if out is None and places[0].suffix == ".json":
        raise UserError(f"{places[0]} would be replaced: name the new file with --out")
    path = write_spread(places, out or places[0] / "spread.json")
    typer.echo(f"{read_spread(path).round(3).to_string()}\n{path}")
