"""The `fairnb` command."""

import sys

import typer

from fairnb.cli import images, models, runs
from fairnb.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


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


@app.command()
def check() -> None:
    """Check that every package is installed and works, and say what to do if not."""
    from fairnb.cli.check import check_environment

    if not check_environment():
        raise typer.Exit(1)


for group in (runs, images, models):
    app.add_typer(group.commands)


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"fairnb: {error}", err=True)
        sys.exit(2)
