"""The fields that say what an answer must look like, and the grammar that each means.

`response_format` is the OpenAI API's; `structured_outputs` and `guided_*` are vLLM's.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from server.api.requests import unsupported
from server.api.requests.json_schema import with_known_formats
from server.api.requests.model import RequestBody, refuse
from server.core.errors import RequestError
from server.core.grammar import GrammarKind, GrammarSpec

MAX_SHAPE_CHARS = 262_144
"""Length of a schema or grammar as text."""

MAX_CHOICES = 16_384
"""Texts that an answer may be one of."""

_ANY_OBJECT = '{"type":"object"}'


class JsonSchema(RequestBody):
    """`response_format.json_schema`. The schema is enforced whether `strict` or not."""

    name: str = Field("answer", max_length=64)
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool = False


class ResponseFormat(RequestBody):
    """`response_format`, as the OpenAI API has it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refuse(
                "json_schema", "json_schema goes with type 'json_schema': give both or neither"
            )
        return self

    def grammar(self, param: str) -> GrammarSpec | None:
        """What it means; None for plain text."""
        if self.type == "text":
            return None
        schema = self.json_schema.json_schema if self.json_schema is not None else None
        text = _ANY_OBJECT if schema is None else _compact(schema)
        if schema is not None:
            param += ".json_schema.schema"
        return GrammarSpec(GrammarKind.JSON_SCHEMA, text, param)


class StructuredOutputs(RequestBody):
    """`structured_outputs`, as vLLM has it: one of its fields."""

    not_honoured = unsupported.STRUCTURED_OUTPUTS

    json_shape: str | dict[str, Any] | bool | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1, max_length=MAX_CHOICES)
    grammar: str | None = None
    json_object: bool = False


def chosen_shape(
    *,
    response_format: ResponseFormat | None,
    structured_outputs: StructuredOutputs | None,
    guided_json: str | dict[str, Any] | bool | None,
    guided_regex: str | None,
    guided_choice: Sequence[str] | None,
    guided_grammar: str | None,
) -> GrammarSpec | None:
    """The one shape that a request asks for. Raises `RequestError` for two that differ, or for
    a huge one: clients that talk to two generations of vLLM send the same shape in both fields."""
    specs = [
        response_format.grammar("response_format") if response_format is not None else None,
        *_vllm_shapes(guided_json, guided_regex, guided_choice, guided_grammar, "guided_"),
    ]
    if (group := structured_outputs) is not None:
        specs += _vllm_shapes(
            group.json_shape, group.regex, group.choice, group.grammar, "structured_outputs."
        )
        if group.json_object:
            specs.append(
                GrammarSpec(GrammarKind.JSON_SCHEMA, _ANY_OBJECT, "structured_outputs.json_object")
            )
    given = [spec for spec in specs if spec is not None]
    if len({(spec.kind, spec.text) for spec in given}) > 1:
        names = " and ".join(spec.param for spec in given)
        raise RequestError(
            f"{names} each say what the answer looks like: give one of them", given[1].param
        )
    return _bounded(given[0]) if given else None


def lark_text(text: str) -> str:
    """`text` as a Lark string literal."""
    return json.dumps(text, ensure_ascii=False)


def _vllm_shapes(
    json_shape: str | dict[str, Any] | bool | None,
    regex: str | None,
    choice: Sequence[str] | None,
    grammar: str | None,
    prefix: str,
) -> list[GrammarSpec | None]:
    return [
        _json_spec(json_shape, prefix + "json"),
        None if regex is None else GrammarSpec(GrammarKind.REGEX, regex, prefix + "regex"),
        None if choice is None else _choice_spec(choice, prefix + "choice"),
        None if grammar is None else GrammarSpec(GrammarKind.GBNF, grammar, prefix + "grammar"),
    ]


def _json_spec(shape: str | dict[str, Any] | bool | None, param: str) -> GrammarSpec | None:
    if shape is None or shape is False:
        return None
    if isinstance(shape, dict):
        return GrammarSpec(GrammarKind.JSON_SCHEMA, _compact(shape), param)
    if shape is True:
        return GrammarSpec(GrammarKind.JSON_SCHEMA, _ANY_OBJECT, param)
    try:
        text = _compact(json.loads(shape))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param} isn't JSON: {error}", param) from error
    return GrammarSpec(GrammarKind.JSON_SCHEMA, text, param)


def _choice_spec(choices: Sequence[str], param: str) -> GrammarSpec:
    if not all(choices):
        raise RequestError(f"{param} holds an empty text; each choice needs a character", param)
    alternatives = " | ".join(lark_text(choice) for choice in choices)
    return GrammarSpec(GrammarKind.LARK, f"start: {alternatives}", param)


def _bounded(spec: GrammarSpec) -> GrammarSpec:
    if len(spec.text) > MAX_SHAPE_CHARS:
        raise RequestError(
            f"{spec.param} has {len(spec.text)} characters; this server takes up to "
            f"{MAX_SHAPE_CHARS}: simplify it",
            spec.param,
        )
    return spec


def _compact(schema: Any) -> str:
    # The order of properties matters: answers follow it.
    schema = with_known_formats(schema)
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
