"""The OpenAPI document: every route, what it takes and what it answers.

The routes read their bodies by hand, so that errors are in the API's own words; the document is put
together here from the same schemas. A test compares it with the application's routes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.api.access.route_table import ROUTES, Route
from server.api.openapi.answers import ANSWERS

_REF = "#/components/schemas/{model}"

_STATUSES: Mapping[str, str] = {
    "400": "The request can't be served as it stands; the message says why",
    "401": "No key, or one that isn't valid",
    "403": "The key may not do this",
    "404": "There is no such model or adapter",
    "405": "The route has other methods",
    "409": "Pinned adapters fill the host cache",
    "408": "The body, or the answer, took too long",
    "413": "The body is too large",
    "429": "The queue, or the key's rate, is full",
    "431": "The headers are too large",
    "500": "The server failed on this request",
    "503": "The server is stopping or not ready",
}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
}


def openapi_document(version: str) -> dict[str, Any]:
    """The whole document, as JSON values."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Switchyard",
            "version": version,
            "description": "One 4-bit base model, many adapters, one batch.",
        },
        "paths": paths,
        "components": {
            "schemas": {**ANSWERS, **_bodies(route.body for route in ROUTES if route.body)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, path: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_"),
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "responses": _responses(route),
        # The empty requirement: a server without keys asks for none.
        "security": [] if route.right is None else [{}, {"key": []}],
    }
    if route.body is not None:
        schema = {"$ref": _REF.format(model=route.body.__name__)}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return described


def _responses(route: Route) -> dict[str, Any]:
    content = {kind: {"schema": _reference(name)} for kind, name in route.answers.items()}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    for status, text in _STATUSES.items():
        responses[status] = {
            "description": text,
            "content": {"application/json": {"schema": _reference("Error")}},
        }
        if status in ("429", "503"):
            responses[status]["headers"] = _RETRY_AFTER
    return responses


def _reference(name: str) -> dict[str, Any]:
    return {"type": "string"} if name == "text" else {"$ref": _REF.format(model=name)}


def _bodies(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The schemas of the request bodies, nulls and neutral fields included."""
    unique = list(dict.fromkeys(models))
    _, found = models_json_schema([(m, "validation") for m in unique], ref_template=_REF)
    schemas: dict[str, Any] = found["$defs"]
    for model in _all_models(unique):
        if model.__name__ in schemas:
            _complete(schemas[model.__name__], model)
    return schemas


def _complete(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """What pydantic's own schema doesn't say: nulls, neutral values, what validators take."""
    properties = schema.setdefault("properties", {})
    for name, values in getattr(model, "not_honoured", {}).items():
        properties.setdefault(name, {"enum": [*values, None]})
    required = schema.get("required", ())
    for name, value in properties.items():
        for option in (value, *value.get("anyOf", ())):
            if "patternProperties" in option:
                option["additionalProperties"] = False  # what the pattern is for
        if name not in required and not _takes_null(value):
            properties[name] = {"anyOf": [value, {"type": "null"}]}
    if rules := getattr(model, "rules", ()):
        schema["allOf"] = list(rules)


def _takes_null(schema: Mapping[str, Any]) -> bool:
    options = schema.get("anyOf", ())
    return None in schema.get("enum", ()) or {"type": "null"} in options


def _all_models(models: Iterable[type[BaseModel]]) -> Iterable[type[BaseModel]]:
    """The models and those of their fields, each once."""
    seen: dict[type[BaseModel], None] = {}
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen[model] = None
        for field in model.model_fields.values():
            waiting += _models_in(field.annotation)
    return seen


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        found += _models_in(part)
    return found
