"""Routes of the wire contract that this version doesn't serve yet: each says so by name."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.core.errors import RequestError

_ANNOUNCED = (
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/{name}"),
    ("DELETE", "/v1/adapters/{name}"),
    ("PUT", "/v1/adapters/{name}/alias"),
    ("POST", "/v1/adapters/{name}/pin"),
    ("POST", "/v1/adapters/{name}/unpin"),
    ("POST", "/v1/adapters/{name}/prefetch"),
    ("POST", "/v1/adapters/merge"),
)


def announced_routes() -> APIRouter:
    """Answers 400 on each of them, so that nobody takes silence for success."""
    router = APIRouter()
    for method, path in _ANNOUNCED:
        router.add_api_route(path, _refuse, methods=[method], response_model=None)
    return router


async def _refuse(request: Request) -> Response:
    raise RequestError(
        f"{request.method} {request.url.path} isn't served by this version; the command "
        "`adapters` looks after the store"
    )
