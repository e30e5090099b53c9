"""The command `server`: parse settings, build, run; and `server keys`."""

import inspect
import logging
import os
import signal
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.console import Console

from adapters.command_help import VersionOption, WholeHelpGroup
from server.api.telemetry.request_ids import CURRENT_REQUEST_ID
from server.configuration import ServerConfig, load_config
from server.core.errors import EngineDeadError, SwitchyardError
from server.key_commands import KEYS
from server.logs import set_up_logs
from server.restarting import ExitStatus, Restarter

if TYPE_CHECKING:
    from server.startup import Compose

logger = logging.getLogger(__name__)

_APP = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    cls=WholeHelpGroup,
)
_APP.add_typer(KEYS, name="keys")


def _load(config: ServerConfig, started: float) -> "Compose":
    """Everything behind the port; the port itself listens before torch is imported here."""
    from server.composition import load_server

    return load_server(config, started)


def serve(context: typer.Context, **flags: Any) -> None:
    """Serve one base model and every adapter in the store over an OpenAI-compatible API.

    A request names an adapter as its `model`: `polite`, `polite@3`, or a weighted stack such as
    `polite:0.7+poet:0.3`.
    """
    if context.invoked_subcommand is not None:
        return
    config_file, _ = flags.pop("config"), flags.pop("version")
    for name in _lists():
        flags[name] = tuple(flags[name] or ()) or None
    console = Console(stderr=True, highlight=False)
    try:
        settings = load_config(config_file, os.environ, flags)
    except SwitchyardError as error:
        console.print("[red]the settings can't be used:[/red]")
        console.print(str(error), markup=False)
        raise typer.Exit(ExitStatus.UNUSABLE) from error
    set_up_logs(settings.log_level, settings.log_format, CURRENT_REQUEST_ID.get)
    if settings.restart:
        command = [sys.executable, "-m", "server", *sys.argv[1:], "--no-restart"]
        raise typer.Exit(Restarter(command).run())
    end_on_signals()
    # Imported late: `server --help` must not wait for the HTTP side.
    from adapters.errors import AdapterError, StoreError
    from server.startup import run_server
    from server.supervision import run_on_fast_loop

    try:
        run_on_fast_loop(run_server(settings, _load))
    except (SwitchyardError, AdapterError, OSError) as error:
        console.print("[red]the server can't go on:[/red]")
        console.print(str(error), markup=False)
        may_mend = isinstance(error, EngineDeadError | StoreError | OSError)
        status = ExitStatus.FAILED if may_mend else ExitStatus.UNUSABLE
        raise typer.Exit(status) from error


def end_on_signals() -> None:
    """A signal to stop ends the process with status 0 at once: for as long as nothing has begun.

    Serving puts its own handlers in their place.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(ExitStatus.STOPPED))


def option_name(name: str) -> str:
    """The flag of a setting: a list is given as one flag for each member."""
    singular = name.removesuffix("s") if name in _lists() else name
    return "--" + singular.replace("_", "-")


def _lists() -> list[str]:
    fields = ServerConfig.model_fields.items()
    return [name for name, field in fields if get_origin(field.annotation) is tuple]


def _signature() -> inspect.Signature:
    """What typer reads: one option for each setting, under the heading of its group."""
    parameters = [
        _parameter("context", typer.Context, inspect.Parameter.empty),
        _parameter(
            "config", Annotated[Path | None, typer.Option(help="YAML file with settings")], None
        ),
        _parameter("version", VersionOption, False),
    ]
    parameters += [
        _parameter(name, Annotated[_flag_type(field), _option(name, field)], None)
        for name, field in ServerConfig.model_fields.items()
    ]
    return inspect.Signature(parameters)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def _flag_type(field: FieldInfo) -> Any:
    """`field`'s type with None for 'not given'. Values are checked with the other sources'."""
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(t for t in get_args(annotation) if t is not type(None))
    if get_origin(annotation) is Literal:
        annotation = str
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]] | None  # type: ignore[misc]
    return annotation | None


def _option(name: str, field: FieldInfo) -> Any:
    extra = field.json_schema_extra
    group = str(extra.get("group", "Other")) if isinstance(extra, dict) else "Other"
    flag = option_name(name)
    is_switch = field.annotation is bool
    names = f"{flag}/--no-{flag.removeprefix('--')}" if is_switch else flag
    text = field.description or ""
    if get_origin(field.annotation) is Literal:
        text += f" ({', '.join(get_args(field.annotation))})"
    if field.default is not None and field.default != ():
        default = ("on" if field.default else "off") if is_switch else field.default
        text += f" [{default}]"
    return typer.Option(names, help=text, rich_help_panel=group, show_default=False)


serve.__signature__ = _signature()  # type: ignore[attr-defined]
serve.__annotations__ = {name: p.annotation for name, p in _signature().parameters.items()}
_APP.callback(
    invoke_without_command=True,
    epilog="Every setting can also stand in a YAML file (--config) or in a SWITCHYARD_* variable, "
    "such as SWITCHYARD_KV_CACHE_GIB=4. Flags win over variables, variables over the file.",
)(serve)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(_APP())
