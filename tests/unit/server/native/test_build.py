"""Building and loading: what the processor offers, and what happens without a compiler."""

import logging
import os
from pathlib import Path

import pytest

from server.native.build import (
    InstructionSet,
    built_library,
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


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes `built` to whatever it is to make."""
    compiler = tmp_path / "fake-compiler"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho built > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))


@pytest.mark.usefixtures("fake_compiler")
def test_what_this_process_built_is_loaded_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    library = built_library(InstructionSet.AVX2, cache)
    assert library.is_relative_to(cache)
    library.write_text("the same one\n")
    assert built_library(InstructionSet.AVX2, cache) == library
    assert library.read_text() == "the same one\n"


@pytest.mark.usefixtures("fake_compiler")
@pytest.mark.parametrize("what", ["library", "folder", "cache", "owner"])
def test_a_library_that_others_could_have_put_there_is_not_loaded(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    planted = built_library(InstructionSet.AVX2, cache)
    planted.write_text("planted\n")
    if what == "owner":
        if os.getuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(planted, 12345, 12345)
    else:
        part = {"library": planted, "folder": planted.parent, "cache": cache}[what]
        part.chmod(0o777)
    library = built_library(InstructionSet.AVX2, cache)
    assert library.read_text() == "built\n"
    assert library.parent.stat().st_mode & 0o077 == 0
    assert not library.is_relative_to(cache)
    assert "nothing is loaded from the cache" in caplog.text
    assert planted.read_text() == "planted\n"


@pytest.mark.usefixtures("fake_compiler")
def test_nothing_is_written_into_a_cache_of_somebody_else(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    assert not built_library(InstructionSet.AVX2, cache).is_relative_to(cache)
    assert list(cache.iterdir()) == []
