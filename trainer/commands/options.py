"""Arguments that several subcommands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.store.store import AdapterStore

OVERRIDES: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that takes `--key value` pairs of the config."""

EPILOG = (
    "Any key of the config can be given here too, dotted: --training.epochs 3 --lora.r 8 --seed 1"
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what.")]
StoreReference = Annotated[
    str,
    typer.Option(
        "--store", envvar="SWITCHYARD_STORE", help="The adapter store: a folder or a URL."
    ),
]
RunsPath = Annotated[
    Path,
    typer.Option("--runs", envvar="SWITCHYARD_RUNS", help="Where run folders (logs, curve) go."),
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="SWITCHYARD_SERVER",
        help="A running server, such as http://127.0.0.1:8000.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SWITCHYARD_API_KEY", help="For a server that wants one."),
]


def open_existing(store: str) -> "AdapterStore":
    """The store at a folder or URL, which must be there: looking must not make one.

    Raises `AdapterNotFoundError` or `StoreError`.
    """
    from adapters.errors import AdapterNotFoundError
    from adapters.store.remote_store import is_remote, open_store

    if not is_remote(store) and not Path(store).is_dir():
        raise AdapterNotFoundError(
            f"there is no store {store}: give its folder or URL with --store or SWITCHYARD_STORE"
        )
    return open_store(store)
