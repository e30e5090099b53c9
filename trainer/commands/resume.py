"""`trainer resume`: go on with a run that was cut off."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.commands.telling import EXIT_FAILED, load_libraries, told_in_one_line

RunFolderPath = Annotated[
    Path, typer.Argument(metavar="RUN_FOLDER", help="The folder that `trainer run` named.")
]
OtherStore = Annotated[
    str | None,
    typer.Option("--store", help="Publish here instead of into the store of the run."),
]


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)


def resume(folder: RunFolderPath, store: OtherStore = None) -> None:
    """Go on with a run that was cut off: with the same losses and bytes as if it never was.

    Exit code 1 means that nothing was published.
    """
    console = Console()
    with told_in_one_line(console):
        load_libraries(console)
        from adapters.store.remote_store import open_store
        from trainer.run.resuming import resume_training

        into = None if store is None else open_store(store)
        result = resume_training(folder, store=into, console=console)
        if result.stored is None:
            raise typer.Exit(EXIT_FAILED)
