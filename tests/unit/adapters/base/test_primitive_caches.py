"""oneDNN keeps little of the shapes that it has met."""

import os
import subprocess
import sys

import pytest

from adapters.base.host_memory import PRIMITIVE_CACHES, PRIMITIVES_KEPT, keep_few_primitives

MULTIPLY = """
import sys
import psutil
import torch
from adapters.base.host_memory import keep_few_primitives, return_freed_memory

if sys.argv[1] == "few":
    keep_few_primitives()
weight = torch.randn(512, 512, dtype=torch.bfloat16, requires_grad=True)
process = psutil.Process()
for rows in range(64, 464):
    (torch.ones(rows, 512, dtype=torch.bfloat16) @ weight.T).sum().backward()
    weight.grad = None
    if rows == 67:
        return_freed_memory()
        before = process.memory_info().rss
return_freed_memory()
print(process.memory_info().rss - before)
"""


def _grown_bytes(kept: str) -> int:
    """By how much a process grew that multiplied matrices of 400 heights, and back."""
    environment = {k: v for k, v in os.environ.items() if k not in PRIMITIVE_CACHES}
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLY, kept],
        check=True, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_a_process_that_multiplies_many_shapes_stays_small() -> None:
    untold = _grown_bytes("as it is")
    if untold < 50 << 20:
        pytest.skip("this torch's products keep nothing")
    assert _grown_bytes("few") < untold / 4


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    keep_few_primitives()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(PRIMITIVES_KEPT)
