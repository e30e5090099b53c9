"""Tool calls in text, however it is cut into pieces."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.tool_calls.tool_formats import SYNTAX, ToolFormat, detected_format
from server.api.tool_calls.tool_parser import CallParser
from server.api.tool_calls.tool_pieces import (
    ArgumentsPiece,
    CallPiece,
    ContentPiece,
    Piece,
    parse_whole,
)

NAMES = ("get_weather", "now")
ARGUMENTS: list[dict[str, Any]] = [
    {"city": "Zürich", "nested": {"a": [1, {"b": "}"}]}},
    {"text": 'a "quoted" \\ {brace} </tool_call>'},
    {},
]


def written(tool_format: ToolFormat, calls: list[tuple[str, dict[str, Any]]]) -> str:
    key = SYNTAX[tool_format].arguments_key
    objects = [json.dumps({"name": n, key: a}, ensure_ascii=False) for n, a in calls]
    match tool_format:
        case ToolFormat.HERMES:
            return "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)
        case ToolFormat.MISTRAL:
            return f"[TOOL_CALLS][{', '.join(objects)}]"
        case ToolFormat.LLAMA3:
            return "; ".join(objects)
        case ToolFormat.JSON:
            return f"[{', '.join(objects)}]" if len(objects) > 1 else objects[0]


def parsed(tool_format: ToolFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = parse_whole(CallParser(SYNTAX[tool_format], NAMES), text)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


calls_strategy = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(ARGUMENTS)), min_size=1, max_size=3
)


@settings(max_examples=80)
@given(
    tool_format=st.sampled_from(ToolFormat),
    calls=calls_strategy,
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_pieces_add_up_to_the_whole(
    tool_format: ToolFormat, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    text = written(tool_format, calls)
    has_tag = tool_format in (ToolFormat.HERMES, ToolFormat.MISTRAL)
    whole = "Let me look. " + text if has_tag else text
    want = ("Let me look." if has_tag else "", calls)
    assert parsed(tool_format, whole) == want
    parser = CallParser(SYNTAX[tool_format], NAMES)
    pieces: list[Piece] = []
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {len(whole)})
    begin = 0
    for end in ends:
        pieces += parser.push(whole[begin:end])
        begin = end
    pieces += parser.finish()
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentPiece))
    assert content == want[0]
    arguments: dict[int, str] = {}
    names: list[str] = []
    for piece in pieces:
        if isinstance(piece, CallPiece):
            assert piece.index == len(names)
            names.append(piece.name)
            arguments[piece.index] = ""
        elif isinstance(piece, ArgumentsPiece):
            arguments[piece.index] += piece.text
    got = [(name, json.loads(arguments[i])) for i, name in enumerate(names)]
    assert got == calls


@pytest.mark.parametrize("tool_format", ToolFormat)
@pytest.mark.parametrize(
    "text",
    [
        "Just text.",
        "",
        "  spaces around  ",
        '{"name": "unknown", "arguments": {}}',
        '{"answer": 5}',
        "{not json",
        "<tool_call>nonsense</tool_call>",
        '<tool_call>{"name": 5}</tool_call> and more',
        "a < b and a <tool b",
        "[1, 2, 3]",
        "[TOOL_CALLS] of the wild",
    ],
)
def test_what_is_no_call_stays_text(tool_format: ToolFormat, text: str) -> None:
    for pieces in ([text], list(text)):
        parser = CallParser(SYNTAX[tool_format], NAMES)
        got = [piece for part in pieces for piece in parser.push(part)]
        got += parser.finish()
        assert all(isinstance(piece, ContentPiece) for piece in got)
        assert "".join(p.text for p in got if isinstance(p, ContentPiece)) == text


def test_the_name_comes_first_and_arguments_as_they_are_written() -> None:
    parser = CallParser(SYNTAX[ToolFormat.HERMES], NAMES)
    assert parser.push('<tool_call>{"name": "no') == []
    begun = parser.push('w", "arguments": {"a":')
    assert isinstance(begun[0], CallPiece)
    assert begun[0].name == "now"
    assert begun[0].call_id.startswith("call_")
    assert begun[1:] == [ArgumentsPiece(0, '{"a":')]
    assert parser.push(" 1}") == [ArgumentsPiece(0, " 1}")]
    assert parser.push("}</tool_call>") == []
    assert parser.finish() == []


def test_a_call_cut_off_keeps_what_it_has() -> None:
    content, calls = parse_whole(
        CallParser(SYNTAX[ToolFormat.HERMES], NAMES), '<tool_call>{"name": "now", "arguments": {"a'
    )
    assert content == ""
    assert [(call.name, call.arguments) for call in calls] == [("now", '{"a')]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"arguments": {"a": 1}, "name": "now"}', {"a": 1}),
        ('{"name": "now"}', {}),
        ('{"name": "now", "arguments": null}', {}),
        ('{"name": "now", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"id": 7, "name": "now", "arguments": {"a": 1}, "x": [1]}', {"a": 1}),
    ],
)
def test_ways_to_write_one_call(text: str, arguments: dict[str, Any]) -> None:
    assert parsed(ToolFormat.JSON, text) == ("", [("now", arguments)])


def test_mistrals_newer_form_and_llamas_tag() -> None:
    assert parsed(ToolFormat.MISTRAL, '[TOOL_CALLS]now{"a": 1}') == ("", [("now", {"a": 1})])
    text = '[TOOL_CALLS]now[ARGS]{"a": 1}'
    assert parsed(ToolFormat.MISTRAL, text) == ("", [("now", {"a": 1})])
    text = '<|python_tag|>{"name": "now", "parameters": {"a": 1}}'
    assert parsed(ToolFormat.LLAMA3, text) == ("", [("now", {"a": 1})])
    _, calls = parse_whole(CallParser(SYNTAX[ToolFormat.MISTRAL], NAMES), "[TOOL_CALLS]now{}")
    assert len(calls[0].call_id) == 9


@pytest.mark.parametrize(
    ("template", "tool_format"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ToolFormat.HERMES),
        ("{% if tools %}<tool_call>{% endif %}", ToolFormat.HERMES),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", ToolFormat.MISTRAL),
        ("{% if tools %}<|python_tag|>{% endif %}", ToolFormat.LLAMA3),
        ("{{ tools | tojson }}", ToolFormat.JSON),
    ],
)
def test_the_template_tells_the_family(template: str, tool_format: ToolFormat) -> None:
    assert detected_format(template) is tool_format
