"""Building and loading: what the processor offers, and what happens without a compiler."""

import logging
from pathlib import Path

import pytest

from adapters.base.native.build import (
    InstructionSet,
    load_native,
    supported_instruction_sets,
)

_AVX2_FLAGS = "fpu sse4_2 avx avx2 fma f16c"


def _cpuinfo(flags: str) -> str:
    return f"processor : 0\nvendor_id : X\nflags\t\t: {flags}\nbugs : none\n"


def test_instruction_sets_come_from_the_processor_flags() -> None:
    avx512 = f"{_AVX2_FLAGS} avx512f avx512bw avx512vl avx512dq avx512_bf16 avx512_vnni"
    both = (InstructionSet.AVX512_BF16, InstructionSet.AVX2)
    assert supported_instruction_sets(_cpuinfo(avx512)) == both
    amx = f"{avx512} amx_bf16 amx_tile amx_int8"
    assert supported_instruction_sets(_cpuinfo(amx)) == (InstructionSet.AMX_BF16, *both)
    assert supported_instruction_sets(_cpuinfo(_AVX2_FLAGS)) == (InstructionSet.AVX2,)
    for missing in ("avx512_bf16", "avx512_vnni"):
        without = avx512.replace(f" {missing}", "")
        assert supported_instruction_sets(_cpuinfo(without)) == (InstructionSet.AVX2,)
    assert supported_instruction_sets(_cpuinfo("fpu sse4_2 avx")) == ()
    assert supported_instruction_sets("") == ()


def test_no_compiler_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.INFO):
        assert load_native(cache_dir=tmp_path) is None
    assert len(caplog.records) == 1
    assert "no C++ compiler (no-such-compiler)" in caplog.text


def test_a_failing_compiler_leaves_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: unknown flag' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert load_native(cache_dir=tmp_path / "cache") is None
    assert "error: unknown flag" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.so"))
    assert not list((tmp_path / "cache").rglob(".building-*"))


def test_a_cached_library_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_native()
    assert first is not None
    monkeypatch.setenv("CXX", "no-such-compiler")
    second = load_native()
    assert second is not None
    assert second.path == first.path
    assert second.instruction_set is supported_instruction_sets()[0]
