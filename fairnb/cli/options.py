"""Options that several commands share."""

from typing import Annotated, Any

import typer
import yaml

from fairnb.errors import UserError

ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="A name in notebooks/profiles or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Change one key, such as finetune.updates=10; repeatable.")
]


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Convert ["a.b=1"] to {"a.b": 1}; values are YAML, so 1, true, [0, 1] and text keep their types."""
    values = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {change} is not key=value: write, for example, --set finetune.updates=10")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {change}: the value is not YAML ({' '.join(str(error).split())})") from error
    return values
