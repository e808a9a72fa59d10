"""`python -m fairnb.miniworld build|quality`: make the mini world, and measure what was made."""

from pathlib import Path
from typing import Annotated

import typer

from fairnb.miniworld.build import build as build_world
from fairnb.profiles import root

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Make the mini world, and measure what was made."""


Work = Annotated[Path, typer.Option(help="where drawings, checkpoints and finished weights are kept")]
Out = Annotated[Path, typer.Option(help="the model folder")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best at hand")]


@app.command()
def build(work: Work = Path("outputs/mini-sd-build"), out: Out = Path("data/mini-sd"), device: Device = None) -> None:
    """Draw the portraits and train every model (hours on a CPU, minutes on a GPU; resumes where it was killed)."""
    build_world(root() / work, root() / out, device=device)


if __name__ == "__main__":
    app()
