"""The gate: no legal request, however large, stalls a quiet stream or the health check."""

import pytest

from loadtests import stalls


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_stalls_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    status = stalls.main([])
    assert status == 0, capsys.readouterr().out
