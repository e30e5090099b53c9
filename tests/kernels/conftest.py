"""Kernels against the reference.

The files `test_triton_*.py` are collected only where triton is installed (`make test-kernels` puts
it into the environment): it takes a gigabyte, so it isn't part of the ordinary test set-up. On a
machine without a GPU they run in Triton's interpreter, which must be chosen before a kernel is
imported. The other files of this folder need nothing and always run.
"""

import importlib.util
import os

import pytest
import torch

from tests.kernels.interpreter import support_bfloat16

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("test_triton_*.py")
elif not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" and not collect_ignore_glob:
        support_bfloat16(monkeypatch)
