"""The functions that a model may call, and how freely."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from adapters.base.chat_messages import template_tool
from server.api.requests.model import RequestBody
from server.core.errors import RequestError

MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class FunctionDefinition(RequestBody):
    """One function, with the JSON schema of its arguments."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """The arguments' schema; a function without one takes any object."""
        return self.parameters or {"type": "object"}

    def as_template_tool(self) -> dict[str, Any]:
        """The definition as chat templates know it."""
        return template_tool(self.name, self.description, self.parameters)


class Tool(RequestBody):
    """One entry of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition
    cache_control: dict[str, Any] | None = None


class NamedFunction(RequestBody):
    """A function by its name alone."""

    name: FunctionName


class NamedTool(RequestBody):
    """`tool_choice` for one function."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(RequestBody):
    """Which of the tools may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolChoice(RequestBody):
    """`tool_choice` for some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def choice_by_type(named: type[RequestBody], allowed: type[RequestBody]) -> BeforeValidator:
    """Reads an object as the one of both that its `type` says.

    A union's errors would name every branch; this names the one that was meant.
    """

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            is_allowed = value.get("type") == "allowed_tools"
            return (allowed if is_allowed else named).model_validate(value)
        return value

    return BeforeValidator(read)


ToolChoiceField = Annotated[
    Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice,
    choice_by_type(NamedTool, AllowedToolChoice),
]


class ToolMode(Enum):
    """Whether the model must call something."""

    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What the request's fields about tools come to, when there are tools to call.

    `declared` are the functions that the prompt tells about, `callable` those that may be called.
    """

    declared: tuple[FunctionDefinition, ...]
    callable: tuple[FunctionDefinition, ...]
    mode: ToolMode
    is_parallel: bool = True

    @property
    def needs_grammar(self) -> bool:
        """Whether the model left to itself could break what was asked."""
        return (
            self.mode is ToolMode.REQUIRED
            or not self.is_parallel
            or len(self.callable) < len(self.declared)
            or any(function.strict for function in self.callable)
        )


def tool_use(
    functions: Sequence[FunctionDefinition],
    choice: str | NamedTool | AllowedToolChoice | None,
    *,
    is_parallel: bool,
    param: str = "tool_choice",
) -> ToolUse | None:
    """How tools may be used; None when none may. Raises `RequestError` for an unknown one."""
    names = [function.name for function in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools holds the function {twice} twice: names must differ", "tools")
    if choice == "none":
        return None
    if not functions:
        if choice is None or choice == "auto":
            return None
        raise RequestError(f"{param} asks for a call, and tools is empty: give the tools", param)
    mode = ToolMode.AUTO
    wanted = names
    if isinstance(choice, NamedTool):
        mode, wanted = ToolMode.REQUIRED, [choice.function.name]
    elif isinstance(choice, AllowedToolChoice):
        mode = ToolMode(choice.allowed_tools.mode)
        wanted = [tool.function.name for tool in choice.allowed_tools.tools]
    elif choice == "required":
        mode = ToolMode.REQUIRED
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise RequestError(
            f"{param} names the function {unknown}; tools has {', '.join(names)}", param
        )
    chosen = tuple(function for function in functions if function.name in wanted)
    if isinstance(choice, NamedTool):
        is_parallel = False  # the OpenAI API makes exactly one call then
    return ToolUse(tuple(functions), chosen, mode, is_parallel)
