"""The OpenAPI document says what the server does, and schemathesis finds no difference."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from server.api.openapi_operations import OPERATIONS
from server.api.rights import RIGHTS
from tests.fakes.api_app import FakeServing

# A valid body may still name a model that isn't there, or mean what the documented types can't
# say (a prompt that fits the window), so not every valid one is accepted. TRACE has no body.
_LEFT_OUT = ("positive_data_acceptance",)

SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", FakeServing().app())


def test_the_document_has_every_route() -> None:
    documented = {
        (method.upper(), path)
        for path, operations in SCHEMA.raw_schema["paths"].items()
        for method in operations
    }
    served = {(method, path.replace(":path}", "}")) for method, path in RIGHTS}
    assert documented == served
    assert set(OPERATIONS) <= set(RIGHTS)


@SCHEMA.parametrize()
@settings(
    max_examples=6,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_is_answered_otherwise(case: schemathesis.Case) -> None:
    left_out = [check for check in CHECKS.get_all() if check.__name__ in _LEFT_OUT]
    case.call_and_validate(excluded_checks=left_out)
