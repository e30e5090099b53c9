"""One folder for all that can be made again."""

from pathlib import Path

import pytest

from adapters.cache_folder import default_cache_dir
from server.native import build


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHYARD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "switchyard"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "switchyard"
    monkeypatch.setenv("SWITCHYARD_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"


def test_compiled_kernels_are_in_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def built(_set: build.InstructionSet, cache_dir: Path) -> Path:
        asked.append(cache_dir)
        raise build.NativeBuildError("not here")

    monkeypatch.setenv("SWITCHYARD_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "built_library", built)
    monkeypatch.setattr(build, "supported_instruction_sets", lambda: (build.InstructionSet.AVX2,))
    assert build.load_native() is None
    assert asked == [tmp_path / "native"]
