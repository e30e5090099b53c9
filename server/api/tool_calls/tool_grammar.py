"""The grammar that makes an answer obey `tool_choice`, in llguidance's Lark."""

import json
from collections.abc import Callable
from dataclasses import replace

from server.api.requests.json_schema import with_known_formats
from server.api.requests.structured_output import lark_text
from server.api.requests.tools import FunctionDefinition, ToolMode, ToolUse
from server.api.tool_calls.tool_formats import CallSyntax
from server.core.errors import RequestError
from server.core.grammar import GrammarKind, GrammarSpec

MAX_CALLS = 8
"""Calls in one answer, where the grammar counts them."""

# As json.dumps writes, and so most templates: a small model doesn't lose itself in white space.
_SPACING = {
    "x-guidance": {
        "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ",
    }
}  # fmt: skip

SpecialToken = Callable[[str], int | None]
Compile = Callable[[GrammarSpec], object]


def tool_grammar(
    use: ToolUse, syntax: CallSyntax, special_token: SpecialToken, content: GrammarSpec | None
) -> GrammarSpec:
    """Calls of the functions that may be called; with AUTO, text without a call is fine too.

    `special_token` gives the id of a text that is one special token. `content` shapes the text of
    an answer that calls nothing; only a JSON schema can be combined with calls.
    """
    calls = " | ".join(f"call_{index}" for index in range(len(use.callable)))
    rules = [
        f"call_{index}: {_call(function, syntax)}" for index, function in enumerate(use.callable)
    ]
    rules.append(f"call: {calls}")
    separator = f" {lark_text(syntax.separator)} "
    if use.is_parallel:
        each = "opened" if _opens_each(syntax) else "call"
        series = f"{each} ({separator}{each}){{0,{MAX_CALLS - 1}}}"
    else:
        series = "opened" if _opens_each(syntax) else "call"
    if syntax.is_array and (use.is_parallel or syntax.opening):
        series = f'"[" {series} "]"'
        if not syntax.opening:
            series = f"({series} | call)"
    opening = _literal(syntax.opening, special_token)
    if _opens_each(syntax):
        closing = _literal(syntax.closing, special_token)
        rules.append(f'opened: {opening} "\\n" call "\\n" {closing}')
    elif syntax.opening and not syntax.may_begin_bare:
        series = f"{opening} {series}"
    if use.mode is ToolMode.REQUIRED:
        rules.append(f"start: {series}")
    else:
        rules += _optional(series, syntax, special_token, content)
    return GrammarSpec(GrammarKind.LARK, "\n".join(rules), "tools")


def enforceable(use: ToolUse, compile_: Compile) -> ToolUse:
    """`use` with any object for the arguments of each function whose schema can't be enforced.

    Raises the `RequestError` of a strict one, which asks that its schema hold.
    """
    loosened = [
        function
        if _is_enforced(function, use.declared.index(function), compile_)
        else function.model_copy(update={"parameters": None})
        for function in use.callable
    ]
    return replace(use, callable=tuple(loosened))


def _is_enforced(function: FunctionDefinition, index: int, compile_: Compile) -> bool:
    param = f"tools[{index}].function.parameters"
    try:
        compile_(GrammarSpec(GrammarKind.JSON_SCHEMA, _schema(function), param))
    except RequestError:
        if function.strict:
            raise
        return False
    return True


def _schema(function: FunctionDefinition) -> str:
    schema = with_known_formats(function.schema_of_arguments)
    return json.dumps({**schema, **_SPACING}, ensure_ascii=False)


def _call(function: FunctionDefinition, syntax: CallSyntax) -> str:
    head = f'{{"name": {json.dumps(function.name)}, "{syntax.arguments_key}": '
    return f'{lark_text(head)} %json {_schema(function)} "}}"'


def _opens_each(syntax: CallSyntax) -> bool:
    """Whether opening and closing stand around each call rather than around all of them."""
    return bool(syntax.closing)


def _literal(text: str, special_token: SpecialToken) -> str:
    """A text as the tokens that the model knows it by."""
    if not text:
        return ""
    token_id = special_token(text)
    return lark_text(text) if token_id is None else f"<[{token_id}]>"


def _optional(
    series: str, syntax: CallSyntax, special_token: SpecialToken, content: GrammarSpec | None
) -> list[str]:
    """Rules for an answer that may call something, and may not."""
    if content is not None:
        if content.kind is not GrammarKind.JSON_SCHEMA:
            raise RequestError(
                f"{content.param} can't be combined with tools: leave one of them out",
                content.param,
            )
        return [f"start: {series} | content", f"content: %json {content.text}"]
    if syntax.may_begin_bare:
        first = r"[^{\[ \t\r\n]" if syntax.is_array else r"[^{ \t\r\n]"
        return [f"start: {series} | TEXT", rf"TEXT: /({first}(.|\n)*)?/"]
    token_id = special_token(syntax.opening)
    if token_id is not None:
        return [f"start: TEXT ({series})?", r"TEXT: /(.|\n)*/"]
    # Lexed lazily: as soon as the opening is there, the text is over and a call must follow.
    before = f"before[lazy]: /(.|\\n)*/ {lark_text(syntax.opening)}"
    rest = series.removeprefix(lark_text(syntax.opening))
    if _opens_each(syntax):
        first = f'"\\n" call "\\n" {lark_text(syntax.closing)}'
        rest = first + series.removeprefix("opened")
    return ["start: TEXT | before rest", r"TEXT: /(.|\n)*/", before, f"rest: {rest}"]
