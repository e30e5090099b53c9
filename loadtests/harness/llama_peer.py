"""llama.cpp's server on the embedded base's own GGUF, measured like ours: also with adapters."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.base.embedded import embedded_gguf
from adapters.base.reference import resolve_base
from loadtests.fixtures.gguf_adapter import write_gguf_adapter
from loadtests.harness.closed_loop import AnswerShape, ClosedLoop, chat_body
from loadtests.harness.report import CellResult
from loadtests.harness.server_process import running_llama_cpp

LABEL = "llama.cpp"
BASE = "base"
_EMBEDDED = "embedded:"


@dataclasses.dataclass(frozen=True, slots=True)
class Width:
    """One cell: so many clients, requests of each, and adapters that take turns."""

    num_clients: int
    num_requests_each: int
    num_adapters: int


async def measure_llama_cpp(
    binary: Path,
    base: str,
    folders: Sequence[Path],
    widths: Sequence[Width],
    shape: AnswerShape,
    scratch: Path,
) -> list[CellResult]:
    """Convert the LoRA `folders`, start `llama-server`, run the cells, stop it.

    Cells without adapters have a server of their own that holds none: adapters which it holds cost
    that server time when a request names none of them. Raises `ServerStartError`,
    `HttpClientError`, and `ValueError` for a base without a GGUF.
    """
    if not base.startswith(_EMBEDDED):
        raise ValueError(f"{base} comes without a GGUF file; llama.cpp is measured on embedded:")
    files = convert(base, folders, scratch)
    num_slots = max(width.num_clients for width in widths)
    model = embedded_gguf(base.removeprefix(_EMBEDDED))
    cells: list[CellResult] = []
    for held in ([], files):
        wanted = [width for width in widths if bool(width.num_adapters) == bool(held)]
        if not wanted:
            continue
        names = [f"{BASE}:{index}" for index in range(len(held))]
        async with running_llama_cpp(
            binary, model, held, scratch / "llama.log", num_clients=num_slots
        ) as url:
            loop = ClosedLoop(LABEL, url, shape, llama_body)
            await loop.warm_up(names or [BASE], num_slots)
            for width in wanted:
                cells.append(await _measured(loop, names[: width.num_adapters] or [BASE], width))
    return cells


async def _measured(loop: ClosedLoop, models: Sequence[str], width: Width) -> CellResult:
    cell = await loop.measure(
        models, width.num_clients, width.num_requests_each, width.num_adapters
    )
    print(f"  {LABEL}: {width.num_clients} clients, {width.num_adapters} adapters: "
          f"{cell.tokens_per_second:.1f} tokens/s", flush=True)  # fmt: skip
    return cell


def convert(base: str, folders: Sequence[Path], scratch: Path) -> list[Path]:
    """A GGUF file in `scratch` for each PEFT folder."""
    config = json.loads((resolve_base(base).path / "config.json").read_text())
    return [
        write_gguf_adapter(
            folder,
            scratch / f"{index}.gguf",
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
        )
        for index, folder in enumerate(folders)
    ]


def llama_body(model: str, serial: int, shape: AnswerShape) -> dict[str, Any]:
    """`base`, or `base:3` for the fourth adapter: llama.cpp takes them by position."""
    name, _, position = model.partition(":")
    applied = [{"id": int(position), "scale": 1.0}] if position else []
    body = chat_body(name, serial, shape)
    return {**body, "lora": applied} if applied else body
