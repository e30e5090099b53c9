"""llama.cpp is measured without adapters by a server that holds none."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtests.harness import llama_peer
from loadtests.harness.closed_loop import AnswerShape
from loadtests.harness.llama_peer import Width, llama_body, measure_llama_cpp


def test_cells_without_adapters_have_a_server_that_holds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Sequence[str], int]] = []

    class Loop:
        def __init__(self, _label: str, url: str, *_: Any) -> None:
            self.num_held = int(url)

        async def warm_up(self, *_: Any) -> None: ...

        async def measure(self, models: Sequence[str], clients: int, *_: int) -> Any:
            asked.append((self.num_held, models, clients))
            return type("Cell", (), {"tokens_per_second": 1.0})()

    @asynccontextmanager
    async def started(
        _binary: Path, _model: Path, held: Sequence[Path], _log: Path, **_: int
    ) -> AsyncIterator[str]:
        yield str(len(held))

    monkeypatch.setattr(llama_peer, "running_llama_cpp", started)
    monkeypatch.setattr(llama_peer, "ClosedLoop", Loop)
    monkeypatch.setattr(llama_peer, "convert", lambda *_: [tmp_path / "0", tmp_path / "1"])
    monkeypatch.setattr(llama_peer, "embedded_gguf", lambda _: tmp_path / "base.gguf")
    widths = [Width(1, 2, 0), Width(1, 2, 2), Width(8, 2, 0)]
    cells = asyncio.run(
        measure_llama_cpp(
            tmp_path / "binary", "embedded:any", [tmp_path], widths, AnswerShape(4, True), tmp_path
        )
    )
    assert len(cells) == 3
    assert asked == [(0, ["base"], 1), (0, ["base"], 8), (2, ["base:0", "base:1"], 1)]


def test_a_request_names_an_adapter_by_its_position_and_the_base_by_none() -> None:
    shape = AnswerShape(4, True)
    assert "lora" not in llama_body("base", 0, shape)
    assert llama_body("base:3", 0, shape)["lora"] == [{"id": 3, "scale": 1.0}]
