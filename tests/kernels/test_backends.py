"""Which kernels are chosen, and that the log says so."""

import logging
import sys

import pytest

from server.model.kernels import reference
from server.model.kernels.backends import choose_backend


def test_a_cpu_runs_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        backend = choose_backend("cpu")
    assert backend.name == "reference"
    assert backend.make_work is reference.AdapterWork
    assert backend.attend is reference.attend
    assert backend.make_static_work is None
    assert [record.message for record in caplog.records] == [
        "kernel backend reference (the device is cpu)"
    ]


def test_a_gpu_without_triton_runs_the_reference(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.INFO):
        backend = choose_backend("cuda:0")
    assert backend.name == "reference"
    assert "triton isn't installed" in caplog.text
