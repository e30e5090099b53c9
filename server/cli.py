"""The command `server`: parse settings, build, run."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from server.configuration import load_config
from server.core.errors import SwitchyardError

_APP = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@_APP.command(
    epilog="Every setting can also stand in a YAML file (--config) or in a SWITCHYARD_* variable, "
    "such as SWITCHYARD_KV_CACHE_GIB=4. Flags win over variables, variables over the file."
)
def serve(
    config: Annotated[Path | None, typer.Option(help="YAML file with settings")] = None,
    base: Annotated[str | None, typer.Option(help="embedded:NAME, a folder, or a hub id")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of the adapter store")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16 [auto]")
    ] = None,
    quantization: Annotated[str | None, typer.Option(help="nf4, fp4 or none [nf4]")] = None,
    double_quant: Annotated[
        bool | None, typer.Option(help="Quantise the 4-bit statistics too [on]")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto, reference or native kernels [auto]")
    ] = None,
    head_format: Annotated[
        str | None, typer.Option(help="Native output head: bfloat16, int8 or nf4 [bfloat16]")
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name of the base in requests [from --base]")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Window, prompt and answer together [the model's]")
    ] = None,
    max_num_sequences: Annotated[int | None, typer.Option(help="Sequences in a batch [64]")] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Token budget of a step [256]")
    ] = None,
    max_prefill_beside_decodes: Annotated[
        int | None, typer.Option(help="Prompt tokens of a step while streams decode [by device]")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(help="Sequences in the queue before a 429 [1024]")
    ] = None,
    max_adapters_per_step: Annotated[
        int | None, typer.Option(help="Distinct adapters in a batch [64]")
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens in a KV block [16]")] = None,
    kv_cache_gib: Annotated[float | None, typer.Option(help="Size of the KV cache [1]")] = None,
    prefix_cache: Annotated[
        bool | None, typer.Option(help="Reuse KV blocks of equal prefixes [on]")
    ] = None,
    adapter_bank_pages: Annotated[
        int | None, typer.Option(help="Adapter pages on the device, 8 ranks each [128]")
    ] = None,
    max_lora_rank: Annotated[int | None, typer.Option(help="Largest adapter rank [64]")] = None,
    host_cache_gib: Annotated[
        float | None, typer.Option(help="Adapters kept in host memory [2]")
    ] = None,
    adapter_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that /v1/load_lora_adapter may read from (repeatable)"),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error [info]")
    ] = None,
) -> None:
    """Serve one base model and every adapter in the store over an OpenAI-compatible API.

    A request names an adapter as its `model`: `polite`, `polite@3`, or a weighted stack such as
    `polite:0.7+poet:0.3`.
    """
    flags: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("config",)}
    flags["adapter_roots"] = tuple(flags.pop("adapter_root") or ()) or None
    console = Console(stderr=True, highlight=False)
    try:
        settings = load_config(config, os.environ, flags)
    except SwitchyardError as error:
        console.print("[red]the settings can't be used:[/red]")
        console.print(str(error), markup=False)
        raise typer.Exit(2) from error
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Imported late: `server --help` must not wait for torch.
    from adapters.errors import AdapterError
    from server.composition import run_server

    try:
        asyncio.run(run_server(settings))
    except (SwitchyardError, AdapterError, OSError) as error:
        console.print("[red]the server can't start:[/red]")
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the console script."""
    sys.exit(_APP())
