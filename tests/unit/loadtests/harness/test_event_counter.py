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
NUM_TOKENS = 40_000


@pytest.mark.parametrize("make", [BareSocket, bare_route])
async def test_every_event_of_every_stream_is_counted(make) -> None:  # type: ignore[no-untyped-def]
    # So long that no stream fits into the sockets' buffers: none can end before all have begun.
    with serve(make(NUM_TOKENS, 3)) as url:
        rate = await count_events(url, PATH, {}, 3)
    assert rate.num_events_each == (NUM_TOKENS + 1,) * 3
    assert 0 < rate.num_events <= 3 * (NUM_TOKENS + 1)
    assert rate.per_second > 0


async def test_an_error_is_told() -> None:
    async def refuse(_request: object) -> JSONResponse:
        return JSONResponse({"error": "no such model"}, status_code=404)

    app = Starlette(routes=[Route(PATH, refuse, methods=["POST"])])
    with serve(app) as url, pytest.raises(HttpClientError, match="no such model"):  # type: ignore[arg-type]
        await count_events(url, PATH, {}, 2)
