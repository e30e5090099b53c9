"""What every subcommand does around its work: load libraries quietly, tell mistakes in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from adapters.errors import AdapterError
from trainer.errors import ConfigError, TrainerError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def load_libraries(console: Console) -> None:
    """Import what takes seconds, and keep it quiet."""
    with console.status("loading libraries"):
        from adapters.base.host_memory import save_host_memory
        from trainer.quiet import quiet_libraries

        save_host_memory()
        quiet_libraries()


@contextmanager
def told_in_one_line(console: Console) -> Iterator[None]:
    """A user's mistake becomes a message and an exit code, never a traceback."""
    try:
        yield
    except ConfigError as error:
        console.print("the config can't be used:", style="bold red")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_USAGE) from None
    except (TrainerError, AdapterError) as error:
        console.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        console.print("\nstopped; nothing was published", style="bold red")
        raise typer.Exit(EXIT_INTERRUPTED) from None
