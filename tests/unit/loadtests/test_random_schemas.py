"""Random schemas are valid, bounded, repeatable and of many kinds."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from loadtests.random_schemas import random_schema

SEEDS = range(300)
FIXED_FORMATS = ("date", "uuid", "ipv4")


def is_bounded(schema: Mapping[str, Any] | bool) -> bool:
    """Whether no document of a schema can be longer than some length, white space aside."""
    if isinstance(schema, bool):
        return not schema
    if "enum" in schema or "const" in schema:
        return True
    if "anyOf" in schema:
        return all(is_bounded(option) for option in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return all(_is_bounded_kind(kind, schema) for kind in kinds)


def _is_bounded_kind(kind: str, schema: Mapping[str, Any]) -> bool:
    match kind:
        case "object":
            return schema.get("additionalProperties") is False and all(
                is_bounded(value) for value in schema.get("properties", {}).values()
            )
        case "array":
            parts = [*schema.get("prefixItems", ()), schema.get("items", True)]
            return "maxItems" in schema and all(is_bounded(part) for part in parts)
        case "string":
            endless = re.search(r"[*+]|,\}", schema.get("pattern", "*"))
            return not endless or schema.get("format") in FIXED_FORMATS or "maxLength" in schema
        case "integer":
            return "minimum" in schema and "maximum" in schema
    return kind in ("boolean", "null")


def parts_of(schema: Any) -> Iterator[Any]:
    """Every object and array within a schema, itself first."""
    yield schema
    children = schema.values() if isinstance(schema, dict) else schema
    for child in children:
        if isinstance(child, (dict, list)):
            yield from parts_of(child)


def test_every_schema_is_valid_and_finite() -> None:
    for seed in SEEDS:
        schema = random_schema(seed)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert is_bounded(schema), schema


@pytest.mark.parametrize(
    "endless",
    [
        {"type": "string"},
        {"type": "string", "pattern": "^a+$"},
        {"type": "integer", "minimum": 1},
        {"type": "array", "items": {"type": "null"}},
        {"type": "object", "properties": {}},
        {"anyOf": [{"type": "null"}, {"type": "number"}]},
    ],
)
def test_the_judge_of_finiteness_can_say_no(endless: dict[str, Any]) -> None:
    assert not is_bounded(endless)


def test_seeds_repeat_and_differ() -> None:
    texts = [json.dumps(random_schema(seed)) for seed in SEEDS]
    assert texts == [json.dumps(random_schema(seed)) for seed in SEEDS]
    assert len(set(texts)) > 0.95 * len(texts)


def test_all_kinds_of_schemas_come_up() -> None:
    parts = [part for seed in SEEDS for part in parts_of(random_schema(seed))]
    keywords = {key for part in parts if isinstance(part, dict) for key in part}
    assert keywords >= {
        "properties", "prefixItems", "anyOf", "enum", "const", "pattern", "format", "maxLength",
        "minimum", "日本",
    }  # fmt: skip
