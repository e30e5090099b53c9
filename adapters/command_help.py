"""What the help and the version of our commands look like: whole at 80 columns, nothing cut off.

The boxes that typer draws by default end words that are too long for their column in an ellipsis,
and shorten what a command does. Ours is the plain layout, with options under their headings.
"""

import importlib.metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_NO_LIMIT = 10_000


class WholeHelpGroup(TyperGroup):
    """Lists options under the heading of their `rich_help_panel`, and commands in full."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options by heading, then the commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "rich_help_panel", None) or "Options"
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each command with the whole first sentence of its help."""
        rows = [(name, c.get_short_help_str(_NO_LIMIT)) for name, c in self.commands.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def version_text() -> str:
    """`switchyard 1.2.3`: server, trainer and adapters are of one version."""
    return f"switchyard {importlib.metadata.version('switchyard')}"


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(version_text())
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
    ),
]
