"""The rarer subcommands: merge, export, policy, prune, allow-template, quarantine."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.command_help import WholeHelpGroup
from adapters.commands.common import (
    DEFAULT_STORE,
    AsJson,
    NameArgument,
    RefArgument,
    StorePath,
    open_existing,
    print_json,
    told_in_one_line,
)
from adapters.commands.report import time_text
from adapters.errors import StoreError
from adapters.merging.order import METHODS, MergeSpec
from adapters.names import AdapterRef, parse_ref
from adapters.stack import parse_stack
from adapters.store.alias_notes import publish_note
from adapters.store.keep_policy import KeepPolicy
from adapters.store.remote_store import open_store
from adapters.store.store import SETTLE_SECONDS

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="As `quarantine ls` lists it.")]


def merge(
    name: NameArgument,
    terms: Annotated[
        list[str], typer.Argument(metavar="REF:WEIGHT...", help="Two or more, as sql:0.7 polite:1.")
    ],
    method: Annotated[
        str, typer.Option(help=f"One of PEFT's: {', '.join(METHODS)}. Only cat is exact.")
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option(help="Of the svd methods [the largest of the parents]")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of values that ties, dare and prune keep [0.5]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what dare drops.")] = 0,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Merge adapters into the next, and current, version of NAME; prints the measured error."""
    with told_in_one_line():
        parsed = tuple(term for text in terms for term in parse_stack(text))
        spec = MergeSpec(name, parsed, method, rank, density, seed)
        opened = open_existing(store)
        for term in parsed:
            opened.get(term.ref)
        # Merging needs torch and PEFT; the rest of the command starts without.
        from adapters.merging.merge import merge_adapters

        before = opened.alias(name)
        merged = merge_adapters(opened, spec)
        stored = merged.stored
        if as_json:
            print_json(
                {
                    "label": stored.label,
                    "digest": stored.digest,
                    "rank": stored.rank,
                    "error": merged.error,
                    "parents": [parent.model_dump() for parent in stored.manifest.parents],
                }
            )
            return
        typer.echo(
            f"merged {stored.label} {stored.digest} of rank {stored.rank}; it differs from the "
            f"exact weighted sum by {merged.error:.3%} of that sum's norm"
        )
        typer.echo(publish_note(stored, before, opened.alias(name)), nl=False)


def export(
    ref: RefArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="Written whole or not at all.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Write one version, its manifest included, to a tar file; equal versions give equal bytes."""
    with told_in_one_line():
        stored = open_existing(store).export_archive(parse_ref(ref), file)
        typer.echo(f"exported {stored.label} {stored.digest} to {file}")


def allow_template(ref: RefArgument, store: StorePath = DEFAULT_STORE) -> None:
    """Let a version be rendered with the chat template that it brought, not with the base's.

    A template sees and shapes every prompt: read it (`adapters show --json`) first. What you allow
    is kept beside the versions in this store, and goes nowhere with them.
    """
    with told_in_one_line():
        stored = open_existing(store).allow_template(parse_ref(ref))
        typer.echo(f"{stored.label} may use its chat template {stored.lineage.template_hash}")


def policy(
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest versions of a name that stay.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Remove nothing.")] = False,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Show or set how many versions every publisher leaves of a name: server, trainer, commands.

    What a name points at, what it pointed at before, and what a server has pinned always stay.
    """
    with told_in_one_line():
        if keep is not None and keep_all:
            raise StoreError("--keep and --keep-all contradict one another")
        if keep is not None or keep_all:
            opened = open_store(store)
            opened.set_policy(KeepPolicy(keep))
        else:
            opened = open_existing(store)
        number = opened.policy.keep
        what = "every version" if number is None else f"the newest {number} versions of a name"
        typer.echo(f"{store} keeps {what}")


def prune(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The adapter's name [all names].")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="How many of the newest stay [the store's policy].")
    ] = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Remove old versions, never one that its name points at or that a server has pinned."""
    with told_in_one_line():
        opened = open_existing(store)
        if keep is None and opened.policy.keep is None:
            raise StoreError(
                f"{store} has no policy: say --keep, or set one with `adapters policy --keep`"
            )
        names = opened.names() if name is None else (name,)
        removed = [AdapterRef(n, version) for n in names for version in opened.prune(n, keep)]
        typer.echo(f"removed {', '.join(map(str, removed)) or 'nothing'}")


def list_quarantine(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """What was taken out of sight, and why."""
    with told_in_one_line():
        found = open_existing(store).quarantined()
        if as_json:
            print_json(
                [
                    {
                        "key": q.key,
                        "adapter": str(q.ref),
                        "since": q.since_unix_seconds,
                        "path": str(q.path),
                        "reason": q.reason,
                    }
                    for q in found
                ]
            )
            return
        for quarantined in found:
            typer.echo(f"{quarantined.key}  {time_text(quarantined.since_unix_seconds)}")
            for line in quarantined.reason.splitlines():
                typer.echo(f"    {line}")
        if not found:
            typer.echo("the quarantine is empty")


def sweep(
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds that a folder must have rested unchanged.")
    ] = SETTLE_SECONDS,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Examine every version now; a running server does so by itself."""
    with told_in_one_line():
        taken = open_existing(store).sweep(settle)
        typer.echo(f"took {', '.join(map(str, taken)) or 'nothing'} away")


def restore(key: KeyArgument, store: StorePath = DEFAULT_STORE) -> None:
    """Put a version back where it was, after its files were repaired."""
    with told_in_one_line():
        typer.echo(f"{open_existing(store).restore(key)} is back")


def discard(key: KeyArgument, store: StorePath = DEFAULT_STORE) -> None:
    """Delete a version in quarantine for good."""
    with told_in_one_line():
        typer.echo(f"deleted {open_existing(store).discard(key)}")


def add_upkeep_commands(app: typer.Typer) -> None:
    """Register them."""
    for command in (merge, export, policy, prune):
        app.command()(command)
    app.command("allow-template")(allow_template)
    quarantine = typer.Typer(
        help="Versions that don't read, out of sight.", no_args_is_help=True, cls=WholeHelpGroup
    )
    quarantine.command("ls")(list_quarantine)
    quarantine.command()(sweep)
    quarantine.command()(restore)
    quarantine.command("rm")(discard)
    app.add_typer(quarantine, name="quarantine")
