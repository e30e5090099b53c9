"""What only a running server knows, in its OpenAPI document: its names, its vocabulary's size."""

from collections.abc import Mapping, Sequence
from typing import Any

_MAX_EXAMPLES = 20

_MODEL_FIELDS: Mapping[str, str] = {
    "ChatBody": "model",
    "CompletionBody": "model",
    "ResponseBody": "model",
    "TokenizeBody": "model",
    "DetokenizeBody": "model",
}
_ADAPTER_FIELDS: Mapping[str, str] = {"StackedAdapter": "name", "UnloadAdapterBody": "lora_name"}

Json = dict[str, Any]


def with_examples(
    document: Json, models: Sequence[str], adapters: Sequence[str], vocab_size: int
) -> Json:
    """`document` with names of models and adapters as examples; the given one isn't changed."""
    named = dict(document)
    schemas = named["components"] = dict(document["components"])
    bodies = schemas["schemas"] = dict(schemas["schemas"])
    for fields, names in ((_MODEL_FIELDS, models), (_ADAPTER_FIELDS, adapters)):
        for body, field in fields.items():
            properties = dict(bodies[body]["properties"])
            properties[field] = _exemplified(properties[field], names)
            bodies[body] = {**bodies[body], "properties": properties}
    bodies["TokenId"] = {**bodies["TokenId"], "maximum": vocab_size - 1}
    by_parameter = {"model_id": models, "name": adapters}
    named["paths"] = {
        path: {method: _with_parameters(op, by_parameter) for method, op in operations.items()}
        for path, operations in document["paths"].items()
    }
    return named


def _with_parameters(operation: Json, names: Mapping[str, Sequence[str]]) -> Json:
    parameters = [
        {**parameter, "schema": _exemplified(parameter["schema"], names[parameter["name"]])}
        for parameter in operation["parameters"]
    ]
    return {**operation, "parameters": parameters}


def _exemplified(schema: Json, names: Sequence[str]) -> Json:
    return {**schema, "examples": list(names[:_MAX_EXAMPLES])} if names else schema
