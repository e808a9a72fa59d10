"""The `fairnb` command."""

import signal
import sys
import threading
from typing import Annotated

import typer
from typer.core import TyperGroup

from fairnb.cli import images, models, runs, scores, triplets
from fairnb.cli.options import COURSE, DEBIAS, PANELS, SetOption, parse_changes
from fairnb.errors import AGAIN, UserError


class Grouped(TyperGroup):
    """The commands in groups, by what a user wants; typer itself groups them only with rich's markup."""

    def format_commands(self, ctx, formatter) -> None:
        """Write a section for each of `PANELS`."""
        longest = max(map(len, self.commands))
        for panel in PANELS:
            chosen = [(name, each) for name, each in self.commands.items() if each.rich_help_panel == panel]
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(longest), each.get_short_help_str(120)) for name, each in chosen])


app = typer.Typer(
    cls=Grouped, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def fairnb() -> None:
    """Measure the social bias of Stable Diffusion, find the weights that carry it, fine-tune only those.

    \b
    Examples:
      fairnb run                                 the main path, notebooks 00-07, on mini-sd
      fairnb run 05 --set finetune.updates=10    one notebook, one setting changed
      fairnb generate "a photo of a doctor" --out doctors
      fairnb measure doctors                     who is in these images?
    """


@app.command(rich_help_panel=COURSE)
def check(
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="Check also what a run of this profile needs, and for how long."),
    ] = None,
    change: SetOption = None,
) -> None:
    """Check that every package is installed and works, and say what to do if not.

    With a profile also: are its models here, do labels fit, are memory and disk enough, how long will it take? The
    largest steps of a run are done once.

    \b
    Examples:
      fairnb check
      fairnb check --profile sd15
    """
    from fairnb.cli.check import check_environment, print_line

    good = check_environment()
    if profile:
        from fairnb.experiments.preflight import preflight
        from fairnb.profiles import load_profile

        for line in preflight(load_profile(profile, parse_changes(change))):
            print_line(*line)
            good = good and line.good is not False
    if not good:
        raise typer.Exit(1)


for group in (images, scores, models, runs):
    app.add_typer(group.commands)
app.add_typer(triplets.commands, name="triplets", rich_help_panel=DEBIAS)


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2; SIGTERM ends with 75, "try again"."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(AGAIN))
    try:
        app()
    except UserError as error:
        typer.echo(f"fairnb: {error}", err=True)
        sys.exit(2)
