"""What is wrong with a body, in the words of the request."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from server.core.errors import RequestError

_MAX_SHOWN_CHARS = 80
_MAX_PROBLEMS = 20


def explain(error: ValidationError, schema: type[BaseModel]) -> RequestError:
    """What pydantic found, in the words of the request: all problems, the first one's field."""
    problems = error.errors(include_url=False)
    first_param = _param(problems[0])
    texts = list(dict.fromkeys(_sentence(problem, schema) for problem in problems[:_MAX_PROBLEMS]))
    if len(problems) > _MAX_PROBLEMS:
        texts.append(f"And {len(problems) - _MAX_PROBLEMS} more problems")
    return RequestError(". ".join(texts), first_param or None)


def _param(problem: Mapping[str, Any]) -> str:
    """`messages[0].content` from pydantic's location, or the field that our own check names."""
    path = ""
    for part in (*problem["loc"], *_own_field(problem)):
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_SHOWN_CHARS]}"
    return path.removeprefix(".")


def _own_field(problem: Mapping[str, Any]) -> tuple[str, ...]:
    field = problem.get("ctx", {}).get("field")
    return (field,) if isinstance(field, str) else ()


def _sentence(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    param, message = _param(problem), str(problem["msg"])
    match problem["type"]:
        case "extra_forbidden":
            return f"Unknown field: {param}{_suggestion(problem, schema)}"
        case "missing":
            return f"Missing field: {param} is required"
        case "json_invalid":
            return f"The body isn't valid JSON: {message.removeprefix('Invalid JSON: ')}"
        case "model_type":
            return f"{param or 'The body'} must be a JSON object"
    if not param:
        return message
    subject, should, rest = message.partition(" should ")
    if not should or subject not in ("Input", "String", "List", "Value"):
        return message if _own_field(problem) else f"{param}: {message}"
    if subject in ("List", "Value"):
        return f"{param} should {rest.replace(' after validation', '')}"
    shown = repr(problem["input"])
    if len(shown) > _MAX_SHOWN_CHARS:
        shown = shown[:_MAX_SHOWN_CHARS] + "..."
    return f"{param} is {shown}; it should {rest}"


def _suggestion(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    if len(problem["loc"]) != 1:
        return ""
    near = difflib.get_close_matches(
        str(problem["loc"][0])[:_MAX_SHOWN_CHARS], schema.model_fields, n=1
    )
    return f" (did you mean {near[0]}?)" if near else ""
