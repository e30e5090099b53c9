"""The OpenAPI document says what the server does, and schemathesis finds no difference."""

from collections import Counter
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.schemas import OpenApiSchema

from loadtests.harness.served_names import name_what_is_there
from server.api.access.rights import RIGHTS
from tests.fakes.api_app import BASE_ID, INFO, FakeServing
from tests.fakes.api_tokenizer import VOCAB_SIZE

# What types can't say is left to the server: fields that contradict each other, a template that
# wants the user's turn first. `test_valid_bodies_are_answered` says how often that is. TRACE has
# no body.
_LEFT_OUT = ("positive_data_acceptance",)
_QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def document_of(serving: FakeServing) -> OpenApiSchema:
    serving.info = replace(INFO, max_model_len=4096)
    return schemathesis.openapi.from_asgi("/openapi.json", serving.app())


SCHEMA = document_of(FakeServing())


def test_the_document_has_every_route() -> None:
    documented = {
        (method.upper(), path)
        for path, operations in SCHEMA.raw_schema["paths"].items()
        for method in operations
    }
    served = {(method, path.replace(":path}", "}")) for method, path in RIGHTS}
    assert documented == served


def test_the_document_knows_what_is_served() -> None:
    schemas = SCHEMA.raw_schema["components"]["schemas"]
    assert schemas["ChatBody"]["properties"]["model"]["examples"] == [BASE_ID, "polite", "sql"]
    assert schemas["TokenId"]["maximum"] == VOCAB_SIZE - 1


@SCHEMA.parametrize()
@settings(max_examples=6, **_QUICK)
def test_nothing_is_answered_otherwise(case: schemathesis.Case) -> None:
    left_out = [check for check in CHECKS.get_all() if check.__name__ in _LEFT_OUT]
    case.call_and_validate(excluded_checks=left_out)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/detokenize"]
)
def test_valid_bodies_are_answered(path: str) -> None:
    assert name_what_is_there, "the hook is at work"
    schema = document_of(FakeServing())  # nobody has unloaded anything there
    statuses: Counter[int] = Counter()

    @settings(max_examples=20, derandomize=True, phases=[Phase.generate], **_QUICK)
    @given(case=schema[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def ask(case: schemathesis.Case) -> None:
        statuses[case.call().status_code] += 1

    ask()
    assert set(statuses) <= {200, 400}
    assert statuses[200] >= 5, statuses
