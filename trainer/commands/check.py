"""`trainer check`: everything that can be known before step 1."""

import typer
from rich.console import Console

from trainer.commands.options import EPILOG, OVERRIDES, ConfigPath
from trainer.commands.telling import load_libraries, told_in_one_line
from trainer.config_loading import load_config


def register(app: typer.Typer) -> None:
    app.command("check", context_settings=OVERRIDES, epilog=EPILOG)(check)


def check(context: typer.Context, config: ConfigPath) -> None:
    """Check everything that can be known before step 1; trains nothing, writes nothing."""
    console = Console()
    with told_in_one_line(console):
        loaded = load_config(config, context.args)
        load_libraries(console)
        from trainer.preflight import prepare_run

        prepare_run(loaded, console)
        console.print("all checks passed", style="bold green")
