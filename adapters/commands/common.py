"""What the subcommands of `adapters` share: their options, and how they answer and fail."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapters.base_shapes import BaseShapes, load_base_shapes
from adapters.environment import misspelt_variables
from adapters.errors import AdapterError, AdapterNotFoundError
from adapters.store.remote_store import is_remote, open_store
from adapters.store.store import AdapterStore

DEFAULT_STORE = "var/adapters"
_EXIT_FAILED = 1
_EXIT_MISUSED = 2
_PIPE_WIDTH = 200

StorePath = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        envvar="SWITCHYARD_STORE",
        help="The store: a folder, or a URL such as s3://bucket/adapters.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
BaseReference = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        envvar="SWITCHYARD_BASE",
        help="Also check that every module fits this base model: a folder, a hub id, or "
        "embedded:smollm2-135m-instruct. Takes some seconds.",
    ),
]
RefArgument = Annotated[str, typer.Argument(metavar="REF", help="NAME or NAME@VERSION.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The adapter's name.")]


def open_existing(store: str) -> AdapterStore:
    """The store, which must be there. Raises `AdapterNotFoundError` and `StoreError`."""
    if not is_remote(store) and not Path(store).is_dir():
        raise AdapterNotFoundError(
            f"there is no store {store}: give its folder with --store or SWITCHYARD_STORE"
        )
    return open_store(store)


def refuse_misspelt_variables() -> None:
    """Exit with 2 where a `SWITCHYARD_*` variable is nearly one of these commands' own."""
    problems = misspelt_variables(os.environ)
    if problems:
        typer.echo("\n".join(f"error: {problem}" for problem in problems), err=True)
        raise typer.Exit(_EXIT_MISUSED)


def base_shapes(reference: str | None) -> BaseShapes | None:
    return None if reference is None else load_base_shapes(reference)


def checked_against(base: str | None) -> str:
    return "" if base is None else f", fits {base}"


def console() -> Console:
    return Console(
        width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False
    )


def print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """A user's mistake becomes a message on stderr and exit code 1, never a traceback."""
    try:
        yield
    except AdapterError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_EXIT_FAILED) from None
    except BrokenPipeError:
        # The reader (head, less) has enough; nothing more may be flushed into its pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_EXIT_FAILED) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_EXIT_FAILED) from None
