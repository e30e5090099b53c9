"""JSON schemas of the answers."""

from collections.abc import Mapping
from typing import Any

_TEXT: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_OBJECT: dict[str, Any] = {"type": "object"}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _maybe(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_of(name: str) -> dict[str, Any]:
    return _object(object={"const": "list"}, data=_many(_ref(name)))


def _answer(kind: str, **choice: dict[str, Any]) -> dict[str, Any]:
    return _object(
        id=_TEXT,
        object={"const": kind},
        created=_INTEGER,
        model=_TEXT,
        choices=_many(_object(index=_INTEGER, finish_reason=_TEXT, **choice)),
        usage=_ref("Usage"),
    )


_ADAPTER: dict[str, dict[str, Any]] = {
    "id": _TEXT,
    "object": _TEXT,
    "current": {},
    "loaded": {"type": "boolean"},
    "versions": _many(_OBJECT),
}

ANSWERS: Mapping[str, Any] = {
    # Each event of a stream; `data` is JSON, or `[DONE]`.
    "Event": {
        "type": "object",
        "properties": {"data": _TEXT, "event": _TEXT},
        "required": ["data"],
    },
    "Error": _object(
        error=_object(message=_TEXT, type=_TEXT, param=_maybe("string"), code=_maybe("string"))
    ),
    "Usage": _object(
        prompt_tokens=_INTEGER,
        completion_tokens=_INTEGER,
        total_tokens=_INTEGER,
        prompt_tokens_details=_object(cached_tokens=_INTEGER),
    ),
    "ChatCompletion": _answer("chat.completion", message=_OBJECT),
    "Completion": _answer("text_completion", text=_TEXT),
    "Model": _object(
        id=_TEXT,
        object={"const": "model"},
        created=_INTEGER,
        owned_by=_TEXT,
        root=_TEXT,
        parent=_maybe("string"),
        max_model_len=_INTEGER,
    ),
    "ModelList": _list_of("Model"),
    "Response": _object(
        id=_TEXT, object={"const": "response"}, status=_TEXT, model=_TEXT, output=_many(_OBJECT)
    ),
    "Tokens": _object(count=_INTEGER, max_model_len=_INTEGER, tokens=_many(_INTEGER)),
    "Text": _object(prompt=_TEXT),
    "Adapter": _object(**_ADAPTER),
    "AdapterList": _list_of("Adapter"),
    "AdapterDetail": _object(
        **_ADAPTER,
        version=_INTEGER,
        matched_modules=_many(_TEXT),
        unmatched_modules=_many(_TEXT),
        problems=_many(_TEXT),
        manifest=_OBJECT,
    ),
    "AdapterVersion": _object(id=_TEXT, object=_TEXT, version=_INTEGER, digest=_TEXT),
    "Deleted": _object(id=_TEXT, object=_TEXT, deleted={"const": True}),
    "Merge": _object(object=_TEXT, adapter=_TEXT, digest=_TEXT, method=_TEXT),
    "Limits": _object(
        object={"const": "limits"},
        base_id=_TEXT,
        base=_object(reference=_TEXT, revision=_maybe("string"), digest=_TEXT),
        quantization=_maybe("object"),
        template_hash=_maybe("string"),
        allow_mismatch={"type": "boolean"},
        max_model_len=_INTEGER,
        max_lora_rank=_INTEGER,
        adapter_bank_pages=_INTEGER,
        page_rank=_INTEGER,
        methods=_many(_TEXT),
    ),
    "Status": _object(status=_TEXT),
    "Version": _object(version=_TEXT),
    "Document": _object(openapi=_TEXT, info=_OBJECT, paths=_OBJECT),
}
