"""How the families of models write their tool calls, and which one a chat template belongs to."""

from dataclasses import dataclass
from enum import Enum

from adapters.base.plain_tools import knows_tools


class ToolFormat(Enum):
    """A family's way to write calls.

    HERMES   `<tool_call>{"name": "f", "arguments": {...}}</tool_call>` (Hermes, Qwen, and the
             rendering that a template without tools gets here)
    MISTRAL  `[TOOL_CALLS][{"name": "f", "arguments": {...}}]`, also `[TOOL_CALLS]f{...}`
    LLAMA3   `{"name": "f", "parameters": {...}}`, perhaps behind `<|python_tag|>`; several by `;`
    JSON     `{"name": "f", "arguments": {...}}` as the whole answer, or an array of such
    """

    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA3 = "llama3"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What stands around calls.

    A call follows `opening`; with `may_begin_bare` also the very beginning of an answer. `closing`
    ends one call, `separator` stands between two, `array` around them when there are several ways.
    """

    opening: str
    closing: str
    separator: str
    arguments_key: str
    may_begin_bare: bool = False
    is_array: bool = False
    id_length: int = 24


SYNTAX = {
    ToolFormat.HERMES: CallSyntax("<tool_call>", "</tool_call>", "\n", "arguments"),
    # Mistral's templates refuse ids that aren't nine letters or digits.
    ToolFormat.MISTRAL: CallSyntax(
        "[TOOL_CALLS]", "", ", ", "arguments", is_array=True, id_length=9
    ),
    ToolFormat.LLAMA3: CallSyntax("<|python_tag|>", "", "; ", "parameters", may_begin_bare=True),
    ToolFormat.JSON: CallSyntax("", "", ", ", "arguments", may_begin_bare=True, is_array=True),
}


def detected_format(template: str) -> ToolFormat:
    """The family of a template, by the words that it puts around calls."""
    if not knows_tools(template) or "<tool_call>" in template:
        return ToolFormat.HERMES
    if "[TOOL_CALLS]" in template:
        return ToolFormat.MISTRAL
    if "<|python_tag|>" in template or ("ipython" in template and "parameters" in template):
        return ToolFormat.LLAMA3
    return ToolFormat.JSON
