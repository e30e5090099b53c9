"""`trainer compare`: what `trainer eval` does, by the name that one looks for with several."""

import typer

from trainer.commands.evaluating import evaluate


def register(app: typer.Typer) -> None:
    app.command("compare", help="The same as eval: several adapters and their one base.")(evaluate)
