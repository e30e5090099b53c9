"""Every kernel compiles for real GPUs, though none is here to run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What one program may use: A100 163 KiB (sm_80), RTX 3090 and 4090 99 KiB (sm_86, sm_89), H100 227.
SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}


@pytest.mark.parametrize(("dtype", "capability"), [("bf16", 90), ("fp16", 80), ("fp32", 89)])
def test_kernels_compile_and_fit(dtype: str, capability: int, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_kernels", dtype, str(capability)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    for name, kernel in report.items():
        assert kernel["shared_bytes"] <= SHARED_BYTES[capability], (name, kernel)
        # float32 is multiplied exactly, which tensor cores don't do.
        assert kernel["tensor_cores"] == (dtype != "fp32" and name != "merge"), (name, kernel)
