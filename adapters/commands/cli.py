"""`adapters`: look into the adapter store and change it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.command_help import VersionOption, WholeHelpGroup
from adapters.commands.common import (
    DEFAULT_STORE,
    AsJson,
    BaseReference,
    NameArgument,
    RefArgument,
    StorePath,
    base_shapes,
    checked_against,
    console,
    open_existing,
    print_json,
    refuse_misspelt_variables,
    told_in_one_line,
)
from adapters.commands.report import (
    damage_note,
    detail_table,
    listing_table,
    size_text,
    stored_as_data,
    stray_as_data,
)
from adapters.commands.upkeep import add_upkeep_commands
from adapters.errors import FoldError, InspectionError
from adapters.folding.command import fold_into
from adapters.folding.order import AIM, MAX_ERROR
from adapters.format.digest import adapter_digest
from adapters.format.inspection import inspect_adapter
from adapters.format.tensor_values import check_values
from adapters.names import AdapterRef, check_name, parse_ref
from adapters.serving_limits import MAX_LORA_RANK
from adapters.store.alias import parse_weights
from adapters.store.alias_notes import publish_note
from adapters.store.remote_store import is_remote, open_store
from adapters.store.verification import verify_stored

app = typer.Typer(
    name="adapters",
    help="Look into the adapter store and change it. Every change is atomic: a running server "
    "sees the old state or the new one, and serves the new one within seconds.",
    epilog="REF is a name (its current version) or NAME@VERSION, such as sql or sql@3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=WholeHelpGroup,
)


@app.callback()
def check_environment(version: VersionOption = False) -> None:
    refuse_misspelt_variables()


@app.command("ls")
def list_adapters(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List the adapters: what each name means now, a canary as VERSION:WEIGHT.

    A name whose version is missing or damaged is listed too, with what to do about it.
    """
    with told_in_one_line():
        if not is_remote(store) and not Path(store).is_dir():
            # Looking must not make a store where a path was mistyped.
            typer.echo("[]" if as_json else f"no adapters: there is no folder {store} yet")
            return
        opened = open_store(store)
        adapters, strays = opened.list(), opened.strays()
        if as_json:
            entries = [stored_as_data(opened, stored) for stored in adapters]
            entries += [stray_as_data(stray) for stray in strays if stray.points_at_nothing]
            print_json(sorted(entries, key=lambda entry: str(entry["name"])))
        elif adapters or strays:
            console().print(listing_table(opened, adapters, strays))
            for stray in strays:
                typer.echo(f"{stray.name} {stray.problem}\n    {stray.remedy}")
            for note in (damage_note(opened, stored) for stored in adapters):
                if note is not None:
                    typer.echo(note)
        else:
            typer.echo(f"no adapters in {store} yet: `adapters import NAME FOLDER` adds one")


@app.command()
def show(
    ref: RefArgument,
    store: StorePath = DEFAULT_STORE,
    base: Annotated[
        str | None, typer.Option("--base", help="Also say whether its template is this base's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one version and where it comes from."""
    with told_in_one_line():
        opened = open_existing(store)
        stored = opened.get(parse_ref(ref))
        if as_json:
            print_json(stored_as_data(opened, stored))
            return
        shapes = base_shapes(base)
        template = shapes.template if shapes is not None else None
        console().print(detail_table(opened, stored, template))


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
    with told_in_one_line():
        shapes = base_shapes(base)
        modules = shapes.modules if shapes is not None else None
        if "/" in target or target in (".", ".."):
            folder = Path(target)
            inspection = inspect_adapter(folder, modules)
            check_values(folder)
            typer.echo(
                f"ok: {folder} is {inspection.describe()} "
                f"({size_text(inspection.size_bytes)}), "
                f"{adapter_digest(folder)}{checked_against(base)}"
            )
            return
        stored = open_existing(store).get(parse_ref(target))
        lineage = shapes.lineage if shapes is not None else None
        template = shapes.template if shapes is not None else None
        problems = verify_stored(stored, lineage, modules, template)
        if problems:
            raise InspectionError(f"{stored.label} is not sound:", problems)
        typer.echo(f"ok: {stored.label} {stored.digest}{checked_against(base)}")


@app.command("import")
def import_adapter(
    name: NameArgument,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|FILE.tar", help="A PEFT folder, or what `export` wrote."),
    ],
    store: StorePath = DEFAULT_STORE,
    base: BaseReference = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Of a method that isn't served (OFT, LoHa, LoKr, VeRA ...): make a LoRA that comes"
            " near it, over --base, and print how near. Takes minutes and four bytes a weight.",
        ),
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(
            help=f"Of the fold [the smallest that loses {AIM:.0%}, up to {MAX_LORA_RANK}]"
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help=f"Of the fold: the share of a module's change to lose [{MAX_ERROR}]"),
    ] = None,
    quantization: Annotated[
        str, typer.Option(help="Of the base that the fold is served on: nf4, fp4 or none.")
    ] = "nf4",
    stage: Annotated[
        bool,
        typer.Option(
            "--stage", help="Don't go live: NAME keeps its meaning until `adapters alias`."
        ),
    ] = False,
    allow_template: Annotated[
        bool,
        typer.Option(
            "--allow-template",
            help="Let it be rendered with the chat template in its manifest, where that isn't the "
            "base's. A template sees and shapes every prompt: read it first.",
        ),
    ] = False,
) -> None:
    """Copy a PEFT folder into the store as the next, and current, version of NAME.

    An import while NAME is a canary ends the canary; --stage leaves it as it is.
    """
    with told_in_one_line():
        check_name(name)
        if fold:
            if allow_template:
                raise FoldError("--allow-template is not of --fold: a fold has the base's template")
            fold_into(store, name, folder, base, quantization, rank, max_error, stage=stage)
            return
        if rank is not None or max_error is not None:
            raise FoldError("--rank and --max-error are of --fold")
        shapes = base_shapes(base)
        checks: Any = {"allow_template": allow_template}
        if shapes is not None:
            checks |= {
                "base_modules": shapes.modules,
                "base": shapes.lineage,
                "base_template": shapes.template,
            }
        opened, source = open_store(store), folder.resolve()
        before = opened.alias(name)
        if folder.suffix == ".tar":
            stored = opened.import_archive(name, source, set_alias=not stage, **checks)
        else:
            stored = opened.import_folder(
                name, folder, source=str(source), set_alias=not stage, **checks
            )
        typer.echo(f"imported {stored.label} {stored.digest} into {stored.path}")
        typer.echo(publish_note(stored, before, opened.alias(name)), nl=False)


@app.command()
def rm(
    ref: RefArgument,
    store: StorePath = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove one version (NAME@VERSION), or a name with all its versions (NAME)."""
    with told_in_one_line():
        parsed = parse_ref(ref)
        opened = open_existing(store)
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
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION[:WEIGHT]...",
            help="The version it shall mean, or several with weights that sum to 1.",
        ),
    ],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Make NAME mean VERSION: roll back, or forward, without copying anything.

    With weights (3:0.9 4:0.1) it is a canary: each user gets always the same version of the two.
    """
    with told_in_one_line():
        check_name(name)
        weights = parse_weights(name, versions)
        open_existing(store).set_alias(name, weights)
        shares = [f"{AdapterRef(name, v)}" for v in weights]
        if len(weights) > 1:
            shares = [f"{AdapterRef(name, v)} for {w:.4g} of its users" for v, w in weights.items()]
        typer.echo(f"{name} is now {', '.join(shares)}")


add_upkeep_commands(app)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
