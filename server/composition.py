"""The composition root: builds every part from the settings and runs them together."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from adapters.base.quantization import QuantizationSpec
from adapters.manifest import BaseLineage
from adapters.store import AdapterStore
from server.api.app import create_app
from server.configuration import ServerConfig
from server.core.model_info import ModelInfo
from server.core.settings import SchedulerSettings
from server.engine.catalog import StoreCatalog
from server.engine.engine import Engine
from server.engine.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from server.model.assembly import AssembledModel, ModelSettings, assemble_model
from server.model.native import leave_cores_to_kernels
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

_GIB = 1 << 30

_NATIVE_PREFILL_BESIDE_DECODES = 32


class _Server(uvicorn.Server):
    """uvicorn, but a SIGTERM that was obeyed ends the process with status 0, not by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on SIGINT and SIGTERM; at once on a second SIGINT."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def run_server(config: ServerConfig) -> None:
    """Load the base, serve until told to stop (SIGINT, SIGTERM), and give everything back.

    Raises `SwitchyardError`, `AdapterError` or `OSError` when the server can't start.
    """
    started = time.perf_counter()
    model = assemble_model(_model_settings(config))
    if model.backend.startswith("native"):
        leave_cores_to_kernels()
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    engine = _build_engine(config, model, metrics)
    catalog = StoreCatalog(
        AdapterStore(config.store),
        base=BaseLineage(
            reference=model.base_reference, revision=model.base_revision, digest=model.base_digest
        ),
        base_modules=model.module_shapes,
        allowed_roots=(config.store, *config.adapter_roots),
    )
    metrics.backend_info.labels(model.backend).set(1)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        watching = asyncio.create_task(catalog.watch())
        names = ", ".join(entry.current.label for entry in catalog.list()) or "none"
        logger.info("ready in %.1f s; adapters: %s", time.perf_counter() - started, names)
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await engine.stop()

    app = create_app(
        engine,
        catalog,
        model.tokenizer,
        _model_info(config, model),
        registry=registry,
        lifespan=lifespan,
        before_scrape=engine.refresh_memory_metrics,
    )
    server = _Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            loop="uvloop",
            http="httptools",
            ws="none",
            timeout_graceful_shutdown=15,
        )
    )
    await server.serve()


def _model_settings(config: ServerConfig) -> ModelSettings:
    quantized = config.quantization != "none"
    return ModelSettings(
        base=config.base,
        quantization=QuantizationSpec(
            config.quantization, double_quant=config.double_quant and quantized
        ),
        device=config.device,
        dtype=config.dtype,
        backend=config.backend,
        max_model_len=config.max_model_len,
        block_size=config.block_size,
        kv_cache_gib=config.kv_cache_gib,
        num_adapter_pages=config.adapter_bank_pages,
        max_batch_tokens=config.max_batch_tokens,
        max_num_sequences=config.max_num_sequences,
        head_format=config.head_format,
    )


def _build_engine(config: ServerConfig, model: AssembledModel, metrics: EngineMetrics) -> Engine:
    settings = SchedulerSettings(
        max_num_sequences=config.max_num_sequences,
        max_batch_tokens=config.max_batch_tokens,
        max_prefill_beside_decodes=_prefill_beside_decodes(config, model.backend),
        max_waiting=config.max_waiting,
        max_model_len=model.max_model_len,
        max_adapters_per_step=config.max_adapters_per_step,
        block_size=config.block_size,
        num_blocks=model.num_blocks,
        num_adapter_pages=config.adapter_bank_pages,
        max_lora_rank=config.max_lora_rank,
        enable_prefix_cache=config.prefix_cache,
    )
    scheduler = Scheduler(
        settings, eos_token_ids=model.tokenizer.eos_token_ids, base_digest=model.base_digest
    )
    cache = HostAdapterCache(
        model.loader, max_bytes=int(config.host_cache_gib * _GIB), metrics=metrics
    )
    return Engine(
        scheduler,
        model.runner,
        model.tokenizer,
        cache,
        settings=settings,
        metrics=metrics,
        device=model.device,
    )


def _prefill_beside_decodes(config: ServerConfig, backend: str) -> int | None:
    """In the native kernels a prompt token costs about what a decoding row does.

    On a GPU, and in plain torch, a step has a high price of its own: few large chunks are better.
    """
    if config.max_prefill_beside_decodes is None and backend.startswith("native"):
        return _NATIVE_PREFILL_BESIDE_DECODES
    return config.max_prefill_beside_decodes


def _model_info(config: ServerConfig, model: AssembledModel) -> ModelInfo:
    return ModelInfo(
        base_id=config.served_model_name or model.model_id,
        root=model.base_reference,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        created=int(time.time()),
        aliases=(model.base_reference,),
    )
