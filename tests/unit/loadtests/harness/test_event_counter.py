"""Counting events over many connections: whole streams only."""

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from loadtests.fixtures.modelless_server import BareSocket, bare_route
from loadtests.harness.event_counter import count_events
from loadtests.harness.http_client import HttpClientError
from tests.fakes.api_server import serve

PATH = "/v1/chat/completions"


@pytest.mark.parametrize("make", [BareSocket, bare_route])
async def test_every_event_of_every_stream_is_counted(make) -> None:  # type: ignore[no-untyped-def]
    with serve(make(400, 3)) as url:
        rate = await count_events(url, PATH, {}, 3)
    assert rate.num_events_each == (401, 401, 401)
    assert 0 < rate.num_events <= 3 * 401
    assert rate.per_second > 0


async def test_an_error_is_told() -> None:
    async def refuse(_request: object) -> JSONResponse:
        return JSONResponse({"error": "no such model"}, status_code=404)

    app = Starlette(routes=[Route(PATH, refuse, methods=["POST"])])
    with serve(app) as url, pytest.raises(HttpClientError, match="no such model"):  # type: ignore[arg-type]
        await count_events(url, PATH, {}, 2)
