"""`python -m fairnb.miniworld build|quality`: build the mini world and measure it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fairnb.files import workspace
from fairnb.miniworld.build import build as build_world
from fairnb.miniworld.quality import measure, write_card
from fairnb.profiles import load_profile

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Build the mini world, and measure it."""


Work = Annotated[Path, typer.Option(help="where drawings, checkpoints and finished weights are kept")]
Out = Annotated[Path, typer.Option(help="the model folder")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the best at hand")]


@app.command()
def build(work: Work = Path("outputs/mini-sd-build"), out: Out = Path("data/mini-sd"), device: Device = None) -> None:
    """Draw the portraits and train every model (hours on a CPU, minutes on a GPU); a killed call resumes."""
    build_world(workspace() / work, workspace() / out, device=device)


@app.command()
def quality(work: Work = Path("outputs/mini-sd-build"), profile: str = "mini", images: int = 32) -> None:
    """Measure the model of a profile at its sampling settings and write its card (minutes)."""
    chosen = load_profile(profile)
    how = chosen.sampling
    figures = measure(Path(chosen.model), workspace() / work, how.steps, how.guidance_scale, how.batch, images)
    write_card(Path(chosen.model), figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    app()
