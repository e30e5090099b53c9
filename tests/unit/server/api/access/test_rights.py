"""Every route has a row in the table of rights."""

import pytest
from starlette.routing import Route

from server.api.access.callers import Right
from server.api.access.rights import RIGHTS, path_template, right_for
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
    assert path_template("GET", "/v1/models/a/b") == "/v1/models/{model_id:path}"
    assert path_template("GET", "/v1/modelz") is None


def _routes(routes: list[object]) -> list[Route]:
    found: list[Route] = []
    for route in routes:
        if isinstance(route, Route):
            found.append(route)
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            found += _routes(inner.routes if inner is not None else [])
    return found
