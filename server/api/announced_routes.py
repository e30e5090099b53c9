"""Routes of the wire contract that this version doesn't serve yet: each says so by name."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.core.errors import RequestError

_ANNOUNCED = (
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/responses"),
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
