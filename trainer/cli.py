"""`trainer`: make an adapter from a YAML file and hand it to the store."""

import importlib

import typer

from adapters.command_help import VersionOption, WholeHelpGroup
from adapters.commands.common import refuse_misspelt_variables

COMMANDS = (
    "init", "schema", "check", "run", "resume", "eval", "compare", "export", "verify",
)  # fmt: skip
"""In the order of `--help`. Each is a module of `trainer.commands` with `register(app)`."""

app = typer.Typer(
    name="trainer",
    help="Train adapters: one YAML in, one evaluated and published adapter version out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=WholeHelpGroup,
)


@app.callback()
def check_environment(version: VersionOption = False) -> None:
    refuse_misspelt_variables()


for _name in COMMANDS:
    importlib.import_module(f"trainer.commands.{_name}").register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
