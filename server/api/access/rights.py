"""Which right each route asks of a key: one table, `RIGHTS`.

A route without a row asks for `admin`, so that a forgotten one is closed rather than open; a test
compares the table with the application's routes. None means open to everybody.
"""

from collections.abc import Mapping

from starlette.routing import compile_path

from server.api.access.callers import Right

RIGHTS: Mapping[tuple[str, str], Right | None] = {
    ("GET", "/health"): None,
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/version"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/metrics"): Right.METRICS,
    ("POST", "/v1/chat/completions"): Right.INFER,
    ("POST", "/v1/completions"): Right.INFER,
    ("POST", "/v1/responses"): Right.INFER,
    ("POST", "/tokenize"): Right.INFER,
    ("POST", "/detokenize"): Right.INFER,
    ("GET", "/v1/models"): Right.INFER,
    ("GET", "/v1/models/{model_id:path}"): Right.INFER,
    ("GET", "/v1/limits"): Right.INFER,
    ("GET", "/v1/adapters"): Right.INFER,
    ("GET", "/v1/adapters/{name}"): Right.INFER,
    ("POST", "/v1/load_lora_adapter"): Right.LOAD,
    ("POST", "/v1/unload_lora_adapter"): Right.LOAD,
    ("POST", "/v1/adapters/{name}/pin"): Right.LOAD,
    ("POST", "/v1/adapters/{name}/unpin"): Right.LOAD,
    ("POST", "/v1/adapters/{name}/prefetch"): Right.LOAD,
    ("PUT", "/v1/adapters/{name}/alias"): Right.ADMIN,
    ("DELETE", "/v1/adapters/{name}"): Right.ADMIN,
    ("POST", "/v1/adapters/merge"): Right.ADMIN,
}

_RATED = frozenset({Right.INFER})

_PATTERNS = [
    (method, compile_path(path)[0], path, right) for (method, path), right in RIGHTS.items()
]


def right_for(method: str, path: str) -> Right | None:
    """The right that a request needs; None when it needs none."""
    # A method that no row has ends as 405 or 404 behind the check.
    for row_method, pattern, _, right in _PATTERNS:
        if row_method == method and pattern.match(path):
            return right
    return Right.ADMIN


def path_template(method: str, path: str) -> str | None:
    """The pattern of the row that a request is for; None when no row has it."""
    return next((p for m, pattern, p, _ in _PATTERNS if m == method and pattern.match(path)), None)


def allowed_methods(path: str) -> list[str]:
    """The methods that a path takes; a path that is written out in a row is that row's alone."""
    exact = sorted(method for method, _, template, _ in _PATTERNS if template == path)
    return exact or sorted({m for m, pattern, _, _ in _PATTERNS if pattern.match(path)})


def is_rated(method: str, right: Right | None) -> bool:
    """Whether a request counts against its key's requests per minute."""
    return method == "POST" and right in _RATED
