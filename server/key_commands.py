"""`server keys`: makes, lists and revokes API keys in a keys file."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters.command_help import VersionOption, WholeHelpGroup
from server.api.access.callers import BASE_WORD, Right
from server.api.access.key_file import read_keys, write_keys
from server.api.access.keys import KeyRecord, new_key
from server.configuration import unknown_settings
from server.core.errors import ConfigurationError

KEYS = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke API keys.",
    rich_markup_mode=None,
    cls=WholeHelpGroup,
)


@KEYS.callback()
def of_keys(version: VersionOption = False) -> None:
    problems = unknown_settings(os.environ)
    if problems:
        raise _fail(str(ConfigurationError(problems)))


_DEFAULT_FILE = Path("var/keys.yaml")
_File = Annotated[
    Path | None,
    typer.Option("--keys-file", help=f"The keys file [SWITCHYARD_KEYS_FILE, or {_DEFAULT_FILE}]"),
]


@KEYS.command("new")
def make(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in logs")],
    keys_file: _File = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter it may use, as a pattern: sql, sql-*, sql@3, 'base' for the base alone "
            "(repeatable) [base and *]"
        ),
    ] = None,
    right: Annotated[
        list[Right] | None, typer.Option(help="What it may do (repeatable) [infer]")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Generating requests a minute [no limit]")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Prompt and answer tokens a minute [no limit]")
    ] = None,
    priority: Annotated[
        float, typer.Option(help="Its share of a busy server, relative to other keys")
    ] = 1.0,
) -> None:
    """Make a key and print it. It is shown this once: the file keeps only its hash."""
    path = _path(keys_file)
    # An empty file is one that somebody has made ready for the first key.
    records = _records(path) if path.exists() and path.stat().st_size else ()
    if any(record.name == name for record in records):
        raise _fail(f"{path} has a key called {name} already; revoke it first, or choose another")
    key, key_id, salt, digest = new_key()
    try:
        record = KeyRecord(
            id=key_id,
            name=name,
            salt=salt,
            sha256=digest,
            adapters=tuple(adapter or (BASE_WORD, "*")),
            rights=frozenset(right or (Right.INFER,)),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            priority=priority,
        )
    except ValueError as error:
        raise _fail(f"no such key can be made: {error}") from error
    write_keys(path, [*records, record])
    typer.echo(key)


@KEYS.command("ls")
def show(keys_file: _File = None) -> None:
    """List the keys, without what proves them."""
    table = Table("name", "id", "adapters", "rights", "requests/min", "tokens/min", "priority")
    for record in _records(_path(keys_file)):
        table.add_row(
            record.name,
            record.id,
            " ".join(record.adapters),
            " ".join(sorted(right.value for right in record.rights)),
            str(record.requests_per_minute or "-"),
            str(record.tokens_per_minute or "-"),
            f"{record.priority:g}",
        )
    Console().print(table)


@KEYS.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key")], keys_file: _File = None
) -> None:
    """Take a key out of the file; a running server refuses it within a second."""
    path = _path(keys_file)
    records = _records(path)
    kept = [record for record in records if name not in (record.name, record.id)]
    if len(kept) == len(records):
        raise _fail(f"{path} has no key called {name}; `server keys ls` lists them")
    write_keys(path, kept)
    typer.echo(f"revoked {name}")


def _path(keys_file: Path | None) -> Path:
    return keys_file or Path(os.environ.get("SWITCHYARD_KEYS_FILE", str(_DEFAULT_FILE)))


def _records(path: Path) -> tuple[KeyRecord, ...]:
    try:
        return read_keys(path)
    except ConfigurationError as error:
        raise _fail(str(error)) from error


def _fail(message: str) -> typer.Exit:
    Console(stderr=True, highlight=False).print(message, markup=False)
    return typer.Exit(2)
