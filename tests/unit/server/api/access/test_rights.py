"""Every route has a row in the table of rights."""

import pytest
from fastapi import APIRouter
from starlette.routing import Route as ServedRoute

from server.api.access.callers import Right
from server.api.access.rights import RIGHTS, right_for
from server.api.access.route_table import ROUTES, Route, route_for
from tests.fakes.api_app import FakeServing


def test_every_route_has_a_row() -> None:
    served = {
        (method, route.path)
        for route in _routes(FakeServing().app().routes)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served <= set(RIGHTS), f"without a right: {sorted(served - set(RIGHTS))}"


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/health/live", None),
        ("GET", "/metrics", Right.METRICS),
        ("POST", "/v1/chat/completions", Right.INFER),
        ("GET", "/v1/models/org/base", Right.INFER),
        ("POST", "/v1/adapters/sql/pin", Right.LOAD),
        ("DELETE", "/v1/adapters/sql", Right.ADMIN),
        ("POST", "/v1/adapters/merge", Right.ADMIN),
        ("PATCH", "/v1/models", Right.ADMIN),
        ("GET", "/some/where", Right.ADMIN),
    ],
)
def test_rights(method: str, path: str, right: Right | None) -> None:
    assert right_for(method, path) is right


def test_path_templates_bound_what_metrics_can_see() -> None:
    model = route_for("GET", "/v1/models/a/b")
    assert model is not None
    assert model.path == "/v1/models/{model_id:path}"
    assert route_for("GET", "/v1/modelz") is None


def test_no_two_records_are_of_one_route() -> None:
    assert len(RIGHTS) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_what_infers_is_rated_and_nothing_else(route: Route) -> None:
    is_work = route.method == "POST" and route.right is Right.INFER
    assert route.rate_cost == int(is_work)
    assert "text/event-stream" not in route.answers or is_work


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_handler_stands_on_its_record(route: Route) -> None:
    router = APIRouter()

    @route.on(router)
    async def handler() -> None: ...

    [served] = _routes(list(router.routes))
    assert (served.path, served.methods, served.endpoint) == (route.path, {route.method}, handler)


def _routes(routes: list[object]) -> list[ServedRoute]:
    found: list[ServedRoute] = []
    for route in routes:
        if isinstance(route, ServedRoute):
            found.append(route)
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            found += _routes(inner.routes if inner is not None else [])
    return found
