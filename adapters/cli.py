"""`adapters`: look into the adapter store and change it."""

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
from adapters.digest import adapter_digest
from adapters.errors import AdapterError, AdapterNotFoundError, InspectionError
from adapters.inspection import inspect_adapter
from adapters.names import AdapterRef, parse_ref
from adapters.report import detail_table, listing_table, size_text, stored_as_data
from adapters.store import AdapterStore
from adapters.verification import verify_stored

DEFAULT_STORE = Path("var/adapters")
_EXIT_FAILED = 1
_PIPE_WIDTH = 200

app = typer.Typer(
    name="adapters",
    help="Look into the adapter store and change it. Every change is atomic: a running server "
    "sees the old state or the new one, and serves the new one within seconds.",
    epilog="REF is a name (its current version) or NAME@VERSION, such as sql or sql@3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StorePath = Annotated[
    Path, typer.Option("--store", metavar="DIR", envvar="SWITCHYARD_STORE", help="The store.")
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


@app.command("ls")
def list_adapters(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the adapters: what each name means now."""
    with _told_in_one_line():
        if not store.is_dir():
            # Looking must not make a store where a path was mistyped.
            typer.echo("[]" if as_json else f"no adapters: there is no folder {store} yet")
            return
        opened = AdapterStore(store)
        adapters = opened.list()
        if as_json:
            _print_json([stored_as_data(opened, stored) for stored in adapters])
        elif adapters:
            _console().print(listing_table(opened, adapters))
        else:
            typer.echo(f"no adapters in {store} yet: `adapters import NAME FOLDER` adds one")


@app.command()
def show(ref: RefArgument, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show one version and where it comes from."""
    with _told_in_one_line():
        opened = _open(store)
        stored = opened.get(parse_ref(ref))
        if as_json:
            _print_json(stored_as_data(opened, stored))
        else:
            _console().print(detail_table(opened, stored))


@app.command()
def verify(
    target: Annotated[
        str, typer.Argument(metavar="REF|FOLDER", help="A stored version, or any PEFT folder.")
    ],
    store: StorePath = DEFAULT_STORE,
    base: BaseReference = None,
) -> None:
    """Check that an adapter is sound: files, shapes, digest, and its manifest if it is stored.

    A FOLDER is told from a REF by a slash in it: write ./sql for a folder named sql.
    """
    with _told_in_one_line():
        shapes = _base_shapes(base)
        modules = shapes.modules if shapes is not None else None
        if "/" in target or target in (".", ".."):
            folder = Path(target)
            inspection = inspect_adapter(folder, modules)
            typer.echo(
                f"ok: {folder} is {inspection.describe()} "
                f"({size_text(inspection.size_bytes)}), "
                f"{adapter_digest(folder)}{_checked_against(base)}"
            )
            return
        stored = _open(store).get(parse_ref(target))
        lineage = shapes.lineage if shapes is not None else None
        problems = verify_stored(stored, lineage, modules)
        if problems:
            raise InspectionError(f"{stored.label} is not sound:", problems)
        typer.echo(f"ok: {stored.label} {stored.digest}{_checked_against(base)}")


@app.command("import")
def import_adapter(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A PEFT adapter folder.")],
    store: StorePath = DEFAULT_STORE,
    base: BaseReference = None,
) -> None:
    """Copy a PEFT folder into the store as the next, and current, version of NAME."""
    with _told_in_one_line():
        parse_ref(name)
        shapes = _base_shapes(base)
        stored = AdapterStore(store).import_folder(
            name,
            folder,
            base_modules=shapes.modules if shapes is not None else None,
            base=shapes.lineage if shapes is not None else None,
            source=str(folder.resolve()),
        )
        typer.echo(f"imported {stored.label} {stored.digest} into {stored.path}")


@app.command()
def rm(
    ref: RefArgument,
    store: StorePath = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove one version (NAME@VERSION), or a name with all its versions (NAME)."""
    with _told_in_one_line():
        parsed = parse_ref(ref)
        opened = _open(store)
        versions = opened.versions(parsed.name)
        if parsed.version is not None or not versions:
            opened.get(parsed)
            what = str(parsed)
        else:
            what = f"{parsed.name} with all its versions ({len(versions)})"
        if not yes:
            typer.confirm(f"remove {what} from {store}?", abort=True)
        opened.remove(parsed)
        typer.echo(f"removed {what}")


@app.command()
def alias(
    name: NameArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version it shall mean.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Make NAME mean VERSION: roll back, or forward, without copying anything."""
    with _told_in_one_line():
        ref = AdapterRef(name, version)
        _open(store).set_alias(name, version)
        typer.echo(f"{name} is now {ref}")


def main() -> None:
    """Entry point of the console script."""
    app()


def _open(store: Path) -> AdapterStore:
    if not store.is_dir():
        raise AdapterNotFoundError(
            f"there is no store {store}: give its folder with --store or SWITCHYARD_STORE"
        )
    return AdapterStore(store)


def _base_shapes(reference: str | None) -> BaseShapes | None:
    return None if reference is None else load_base_shapes(reference)


def _checked_against(base: str | None) -> str:
    return "" if base is None else f", fits {base}"


def _console() -> Console:
    return Console(
        width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False
    )


def _print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


@contextmanager
def _told_in_one_line() -> Iterator[None]:
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
