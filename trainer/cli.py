"""`trainer`: make an adapter from a YAML file and hand it to the store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapters.errors import AdapterError
from trainer import defaults
from trainer.config_loading import LoadedConfig, load_config
from trainer.errors import ConfigError, TrainerError

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130

_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_EPILOG = (
    "Any key of the config can be given here too, dotted: --training.epochs 3 --lora.r 8 --seed 1"
)

app = typer.Typer(
    name="trainer",
    help="Train adapters: one YAML in, one evaluated and published adapter version out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what.")]


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def run(
    context: typer.Context,
    config: ConfigPath,
    store: Annotated[
        Path,
        typer.Option(envvar="SWITCHYARD_STORE", help="Adapter store to publish into."),
    ] = Path(defaults.STORE),
    runs: Annotated[
        Path,
        typer.Option(envvar="SWITCHYARD_RUNS", help="Where run folders (logs, curve) go."),
    ] = Path(defaults.RUNS),
) -> None:
    """Train an adapter, compare it with its base, and publish it if its gate holds.

    Exit code 1 means that nothing was published.
    """
    console = Console()
    with _told_in_one_line(console):
        loaded = load_config(config, context.args)
        _load_libraries(console)
        from adapters.store import AdapterStore
        from trainer.running import run_training

        result = run_training(loaded, store=AdapterStore(store), runs=runs, console=console)
        if result.stored is None:
            raise typer.Exit(_EXIT_FAILED)


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def check(context: typer.Context, config: ConfigPath) -> None:
    """Check everything that can be known before step 1; trains nothing, writes nothing."""
    console = Console()
    with _told_in_one_line(console):
        loaded: LoadedConfig = load_config(config, context.args)
        _load_libraries(console)
        from trainer.preflight import prepare_run

        prepare_run(loaded, console)
        console.print("all checks passed", style="bold green")


def _load_libraries(console: Console) -> None:
    """Import what takes seconds only after the config is known to be right."""
    with console.status("loading libraries"):
        from trainer.quiet import quiet_libraries

        quiet_libraries()


@contextmanager
def _told_in_one_line(console: Console) -> Iterator[None]:
    """A user's mistake becomes a message and an exit code, never a traceback."""
    try:
        yield
    except ConfigError as error:
        console.print("the config can't be used:", style="bold red")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USAGE) from None
    except (TrainerError, AdapterError) as error:
        console.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(_EXIT_FAILED) from None
    except KeyboardInterrupt:
        console.print("\nstopped; nothing was published", style="bold red")
        raise typer.Exit(_EXIT_INTERRUPTED) from None


def main() -> None:
    """Entry point of the console script."""
    app()
