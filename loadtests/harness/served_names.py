"""A hook for schemathesis: valid requests name what the server has, and want short answers.

The server's own document gives its models and adapters as examples of the fields that take them;
random text would be a 404 each time. Of the optional fields a few are kept: schemathesis sets most
of them at once, and nearly every pair of them contradicts each other.
`SCHEMATHESIS_HOOKS=loadtests.harness.served_names` loads it.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext

_MAX_OPTIONAL = 3
_MAX_TOKENS = 4
_MAX_CHOICES = 2
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

Json = Mapping[str, Any]


@schemathesis.hook("map_case")
def name_what_is_there(context: HookContext, case: Case[Any]) -> Case[Any]:
    """Change a valid case; a broken one stays broken."""
    meta = case.meta
    if meta is None or meta.generation.mode is not GenerationMode.POSITIVE:
        return case
    document, raw = case.operation.schema.raw_schema, case.operation.definition.raw
    for parameter in raw["parameters"]:
        _choose(case.path_parameters, parameter["name"], parameter["schema"])
    if (body := raw.get("requestBody")) is not None and isinstance(case.body, dict):
        schema = _resolved(body["content"]["application/json"]["schema"], document)
        _thin_out(case.body, frozenset(_required(schema)))
        _shorten(case.body, schema)
        _name(case.body, schema, document)
    return case


def _resolved(schema: Json, document: Json) -> Json:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Json = document["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _required(schema: Json) -> Iterator[str]:
    yield from schema.get("required", ())
    for word in ("allOf", "anyOf"):
        for part in schema.get(word, ()):
            yield from _required(part)


def _thin_out(body: dict[str, Any], required: frozenset[str]) -> None:
    optional = sorted(set(body) - required, key=lambda name: _hash(f"{name}{len(str(body))}"))
    for name in optional[_hash(str(body)) % (_MAX_OPTIONAL + 1) :]:
        del body[name]


def _shorten(body: dict[str, Any], schema: Json) -> None:
    """A model that works by the second shouldn't write until its window is full."""
    given = [name for name in _LIMITS if name in schema.get("properties", {})]
    set_already = [name for name in given if isinstance(body.get(name), int | float)]
    for name in set_already:
        body[name] = min(body[name], _MAX_TOKENS)
    if given and not set_already:
        body[given[-1]] = _MAX_TOKENS
    for name in ("n", "best_of"):
        if isinstance(body.get(name), int | float):
            body[name] = min(body[name], _MAX_CHOICES)
    body.pop("min_tokens", None)


def _name(value: Any, schema: Json, document: Json) -> None:
    """Go through a value and its schema together."""
    schema = _resolved(schema, document)
    for option in schema.get("anyOf", ()):
        _name(value, option, document)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            _name(item, schema["items"], document)
    if isinstance(value, dict):
        for field, inner in schema.get("properties", {}).items():
            _choose(value, field, inner)
            if field in value:
                _name(value[field], inner, document)


def _choose(values: dict[str, Any], field: str, schema: Json) -> None:
    """One of the schema's examples, always the same for the same random text."""
    names, given = schema.get("examples"), values.get(field)
    if names and isinstance(given, str) and given not in names:
        values[field] = names[_hash(given) % len(names)]


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
