"""`trainer run`: train, measure, publish."""

from pathlib import Path

import typer
from rich.console import Console

from trainer.commands.options import EPILOG, OVERRIDES, ConfigPath, RunsPath, StoreReference
from trainer.commands.telling import EXIT_FAILED, load_libraries, told_in_one_line
from trainer.config import defaults
from trainer.config.loading import load_config


def register(app: typer.Typer) -> None:
    app.command("run", context_settings=OVERRIDES, epilog=EPILOG)(run)


def run(
    context: typer.Context,
    config: ConfigPath,
    store: StoreReference = defaults.STORE,
    runs: RunsPath = Path(defaults.RUNS),
) -> None:
    """Train an adapter, compare it with its base, and publish it if its gate holds.

    Exit code 1 means that nothing was published (method full never publishes).
    """
    console = Console()
    with told_in_one_line(console):
        loaded = load_config(config, context.args)
        load_libraries(console)
        from adapters.store.remote_store import open_store
        from trainer.run.running import run_training

        result = run_training(loaded, store=open_store(store), runs=runs, console=console)
        if result.stored is None and loaded.config.training_method.publishes_adapter:
            raise typer.Exit(EXIT_FAILED)
