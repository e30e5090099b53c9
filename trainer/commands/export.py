"""`trainer export`: an adapter merged into its base, as a full model."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from trainer.commands.evaluating import BaseRef
from trainer.commands.options import StoreReference, open_existing
from trainer.commands.telling import load_libraries, told_in_one_line
from trainer.config import defaults


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    name: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="In the store, or a folder.")],
    merge: Annotated[Path, typer.Option(metavar="OUT", help="New folder for the full model.")],
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option()] = "bfloat16",
    base: BaseRef = None,
    store: StoreReference = defaults.STORE,
) -> None:
    """Merge an adapter into its dequantised base, and measure what quantising it again costs."""
    console = Console()
    with told_in_one_line(console):
        from trainer.errors import ConfigError

        if merge.exists() and (not merge.is_dir() or any(merge.iterdir())):
            raise ConfigError([f"--merge: {merge} is there already; name a new folder"])
        load_libraries(console)
        import torch

        from trainer.evaluate.candidates import find_candidate
        from trainer.publish.exporting import export_merged

        candidate = find_candidate(name, lambda: open_existing(store), base)
        report = export_merged(candidate, merge, getattr(torch, dtype))
        console.print(f"{candidate.label} merged into {candidate.base}: {merge}", soft_wrap=True)
        console.print("logits against base + adapter as served, on golden prompts:")
        console.print(f"  merged, {dtype}: {report.merged}", highlight=False, soft_wrap=True)
        console.print(
            f"  merged, then 4 bits again: {report.requantized}", highlight=False, soft_wrap=True
        )
        console.print(
            "merging into 4 bits changes outputs: to serve in 4 bits, serve the adapter itself",
            soft_wrap=True,
        )
