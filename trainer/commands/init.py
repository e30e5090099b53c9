"""`trainer init`: a commented config to begin with."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapters.names import parse_ref
from trainer.commands.telling import told_in_one_line
from trainer.config.starter import EXAMPLE_FILE, example_rows, starter_config
from trainer.errors import ConfigError
from trainer.methods.registry import METHODS


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="The file to write.")
    ] = Path("config.yaml"),
    method: Annotated[str, typer.Option(help="lora, qlora, dora, ...")] = "qlora",
    base: Annotated[
        str, typer.Option(help="The base model.", envvar="SWITCHYARD_BASE")
    ] = "embedded:smollm2-135m-instruct",
    name: Annotated[
        str | None, typer.Option(help="The adapter's name; default the folder's.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Rows to train on; without it a small example file is written."),
    ] = None,
) -> None:
    """Write a config with every key, its default and what it means. Overwrites nothing."""
    console = Console()
    with told_in_one_line(console):
        if method not in METHODS:
            names = ", ".join(METHODS)
            raise ConfigError([f"--method: {method} is no method; use one of {names}"])
        name = name or config.resolve().parent.name
        parse_ref(name)
        example = config.parent / EXAMPLE_FILE
        for path in (config, example) if data is None else (config,):
            if path.exists():
                raise ConfigError([f"{path} is there already; name another file"])
        config.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            example.write_text(example_rows(), encoding="utf-8")
            console.print(f"wrote {example}: a few rows to try things out; put yours in its place")
        text = starter_config(method, name=name, base=base, data=data or EXAMPLE_FILE)
        config.write_text(text, encoding="utf-8")
        console.print(f"wrote {config}; next: trainer check {config}", soft_wrap=True)
