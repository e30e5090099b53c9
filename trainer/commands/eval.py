"""`trainer eval`: an adapter against its base on held-out rows."""

import typer

from trainer.commands.evaluating import evaluate


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
