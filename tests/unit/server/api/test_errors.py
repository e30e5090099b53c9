"""The error table and what is made of it."""

import json

import pytest

from adapters import errors as adapter_errors
from adapters.errors import StoreError
from server.api import errors as api_errors
from server.api.errors import TABLE, error_object, error_response, row_of
from server.core import errors as core_errors

NEVER_ON_THE_WIRE = {
    core_errors.SwitchyardError,
    core_errors.UnsupportedModelError,
    core_errors.ConfigurationError,
    api_errors.ApiError,
}


@pytest.mark.parametrize("module", [core_errors, api_errors, adapter_errors])
def test_every_error_that_reaches_a_client_has_a_row(module: object) -> None:
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in NEVER_ON_THE_WIRE
    ]
    for kind in kinds:
        row = next(TABLE[cls] for cls in kind.__mro__ if cls in TABLE)
        assert row is not TABLE[Exception], kind


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (core_errors.RequestError("m", "top_p"), 400, None, "top_p"),
        (core_errors.PromptTooLongError("m", "prompt"), 400, "context_length_exceeded", "prompt"),
        (core_errors.AdapterUnavailableError("m"), 404, "model_not_found", "model"),
        (core_errors.OverloadedError("m"), 429, "rate_limit_exceeded", None),
        (core_errors.EngineDeadError("m"), 503, "engine_unavailable", None),
        (core_errors.RenderingDownError("m"), 503, "rendering_unavailable", None),
        (adapter_errors.InvalidNameError("m"), 400, "invalid_adapter", "lora_path"),
        (api_errors.BodyTooLargeError("m"), 413, "request_too_large", None),
    ],
)
def test_rows(error: Exception, status: int, code: str | None, param: str | None) -> None:
    assert row_of(error).status == status
    answer = error_response(error)
    assert answer.status_code == status
    body = json.loads(bytes(answer.body))["error"]
    assert (body["message"], body["code"], body["param"]) == ("m", code, param)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_retry_after_is_in_whole_seconds_and_never_zero() -> None:
    for seconds, header in ((0.01, "1"), (1.0, "1"), (1.5, "2")):
        answer = error_response(core_errors.OverloadedError("full", seconds))
        assert answer.headers["retry-after"] == header


def test_an_unforeseen_error_keeps_its_text_to_the_log() -> None:
    body = error_object(ValueError("/home/me/secret"))["error"]
    assert body["code"] == "internal_error"
    assert "secret" not in str(body["message"])


def test_a_servers_failure_names_no_path() -> None:
    text = error_object(StoreError("the store /var/lib/sy/x_1 can't be changed: see a/b and 1/2"))
    assert text["error"]["message"] == "the store (a path) can't be changed: see a/b and 1/2"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            adapter_errors.InspectionError("the adapter in /srv/up loads/x can't", ["/a/b: no"]),
            "the adapter in (a path) loads/x can't\n- (a path): no",
        ),
        (adapter_errors.AdapterNotFoundError("none in '/home/jo e/x'"), "none in '(a path)'"),
        (adapter_errors.ArchiveError("~/x.tar is none; GET /v1/models"), None),
        (
            core_errors.RequestError("your text /etc/passwd is fine"),
            "your text /etc/passwd is fine",
        ),
    ],
)
def test_what_comes_of_files_names_no_path(error: Exception, message: str | None) -> None:
    told = error_object(error)["error"]["message"]
    assert told == (message or "(a path) is none; GET /v1/models")


def test_a_request_error_made_of_one_of_files_names_no_path() -> None:
    error = core_errors.MergeFailedError("no /var/x")
    error.__cause__ = OSError("no /var/x")
    assert error_object(error)["error"]["message"] == "no (a path)"


def test_what_the_client_said_stays() -> None:
    assert api_errors.without_paths("no '/a' in /b; /a", said="/a") == "no '/a' in (a path); /a"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (adapter_errors.AdapterInUseError("m"), "adapter_in_use"),
        (adapter_errors.UnsoundError("m"), "adapter_unsound"),
    ],
)
def test_conflicts_with_what_the_store_has_are_409(error: Exception, code: str) -> None:
    assert (row_of(error).status, row_of(error).code) == (409, code)
