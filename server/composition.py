"""The composition root: builds every part from the settings and runs them together."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from adapters.base.quantization import QuantizationSpec
from adapters.compatibility import ServedBase
from adapters.manifest import BaseLineage, QuantizationRecord
from adapters.remote_store import open_store
from adapters.store import AdapterStore
from server.api.app import VERSION, create_app
from server.api.drain import Drain
from server.api.key_file import read_keys, watch_keys
from server.api.keys import KeyRing
from server.api.protocol import ConnectionLimits
from server.api.settings import ApiSettings
from server.api.tool_formats import ToolFormat
from server.api.tracing import tracer_provider
from server.configuration import ServerConfig
from server.core.limits import AdapterLimits
from server.core.model_info import ModelInfo
from server.core.settings import SchedulerSettings
from server.engine.administration import Administration
from server.engine.catalog import CatalogChange, StoreCatalog
from server.engine.engine import Engine
from server.engine.host_cache import HostAdapterCache
from server.engine.merge_process import MergeProcess
from server.engine.metrics import EngineMetrics
from server.engine.step_watchdog import StepWatchdog
from server.engine.store_keeper import StoreKeeper
from server.engine.throughput_log import ThroughputLog
from server.engine.verified_loader import VerifiedLoader
from server.model.assembly import AssembledModel, ModelSettings, assemble_model
from server.model.native import leave_cores_to_kernels
from server.model.render_pool import RenderPool
from server.scheduling.scheduler import Scheduler
from server.supervision import (
    DrainingServer,
    end_hung_process,
    serve_until_dead,
    uvicorn_config,
)

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_GIB = 1 << 30

_NATIVE_PREFILL_BESIDE_DECODES = 32

_CPU_CROWDING = 0.5
"""See docs/adr/0025 for what it costs and gives."""


async def run_server(config: ServerConfig) -> None:
    """Load the base, serve until told to stop (SIGINT, SIGTERM), and give everything back.

    Raises `SwitchyardError`, `AdapterError` or `OSError` when the server can't start, and
    `EngineDeadError` when the step loop dies.
    """
    started = time.perf_counter()
    # Read while the base is loaded, so that a thousand adapters don't make the start longer.
    store = open_store(config.store)
    reading = asyncio.get_running_loop().run_in_executor(None, store.targets_by_name)
    model = assemble_model(_model_settings(config))
    await reading
    if model.backend.startswith("native"):
        leave_cores_to_kernels()
    await serve_model(config, model, store, started=started)


async def serve_model(
    config: ServerConfig,
    model: AssembledModel,
    store: AdapterStore,
    *,
    started: float,
    make_engine: Callable[..., Engine] = Engine,
) -> None:
    """Serve an assembled model until told to stop; `run_server` says what is raised.

    `started` is when the start began, in `perf_counter` seconds. `make_engine` gets what `Engine`
    is built from; the load tests put one there that needs no model.
    """
    keys = KeyRing(read_keys(config.keys_file)) if config.keys_file else None
    drain = Drain()
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    served = _served_base(config, model)
    catalog = StoreCatalog(
        store,
        served=served,
        base_modules=model.module_shapes,
        allowed_roots=(store.root, *config.adapter_roots),
        max_rank=config.max_lora_rank,
        allow_mismatch=config.allow_mismatch,
    )
    cache = HostAdapterCache(
        VerifiedLoader(model.loader, catalog.quarantine),
        max_bytes=int(config.host_cache_gib * _GIB),
        metrics=metrics,
    )
    settings, scheduler = _scheduling(config, model)
    engine = make_engine(
        scheduler,
        model.runner,
        model.tokenizer,
        cache,
        settings=settings,
        metrics=metrics,
        device=model.device,
    )
    renderer = RenderPool(
        timeout_seconds=config.render_timeout_seconds,
        memory_mib=config.render_memory_mib,
        warm_template=model.tokenizer.chat_template,
    )
    administration = Administration(
        catalog,
        cache,
        bank=engine,
        merger=MergeProcess(config.store),
    )
    keeper = StoreKeeper(catalog)
    metrics.backend_info.labels(model.backend).set(1)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        renderer.start()
        administration.follow_catalog()
        _free_what_goes(catalog, engine)
        throughput = ThroughputLog(metrics, lambda: len(engine.resident_adapters))
        works = (catalog.watch(), keeper.tend(), throughput.run())
        watching = [asyncio.create_task(work) for work in works]
        if config.keys_file and keys is not None:
            watching.append(asyncio.create_task(watch_keys(config.keys_file, keys.replace)))
        watchdog = _step_watchdog(config, engine, drain)
        watchdog.start()
        logger.info("ready in %.1f s", time.perf_counter() - started)
        try:
            yield
        finally:
            watchdog.stop()
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await renderer.close()
            await engine.stop()

    def refresh_metrics() -> None:
        engine.refresh_metrics()
        metrics.keep_adapters([entry.current.name for entry in catalog.list()])

    tracing = tracer_provider(config.trace_endpoint, VERSION) if config.trace_endpoint else None
    app = create_app(
        engine,
        catalog,
        model.tokenizer,
        renderer,
        model.grammars,
        _model_info(config, model),
        limits=AdapterLimits(
            served,
            max_lora_rank=config.max_lora_rank,
            adapter_bank_pages=config.adapter_bank_pages,
            allow_mismatch=config.allow_mismatch,
        ),
        administration=administration,
        registry=registry,
        settings=_api_settings(config),
        lifespan=lifespan,
        before_scrape=refresh_metrics,
        keys=keys,
        drain=drain,
        tracer=tracing.get_tracer("switchyard") if tracing else None,
    )
    server = DrainingServer(
        uvicorn_config(app, host=config.host, port=config.port, limits=_connection_limits(config)),
        drain,
        drain_seconds=config.drain_seconds,
        abort_all=engine.abort_all,
    )
    try:
        await serve_until_dead(server, engine.wait_dead)
    finally:
        if tracing is not None:
            tracing.shutdown()


def _step_watchdog(config: ServerConfig, engine: Engine, drain: Drain) -> StepWatchdog:
    loop, timeout_seconds = asyncio.get_running_loop(), config.step_timeout_seconds
    return StepWatchdog(
        lambda: engine.step_started_at,
        timeout_seconds=timeout_seconds,
        on_hang=lambda: end_hung_process(
            engine.give_up, drain, loop, step_timeout_seconds=timeout_seconds
        ),
    )


def _free_what_goes(catalog: StoreCatalog, engine: Engine) -> None:
    """Give back the memory of what the store no longer means."""
    loop = asyncio.get_running_loop()

    def follow(change: CatalogChange) -> None:
        loop.call_soon_threadsafe(engine.retire_adapters, change.digests, change.meant)

    catalog.subscribe(follow)


def _api_settings(config: ServerConfig) -> ApiSettings:
    return ApiSettings(
        max_body_bytes=int(config.max_body_mib * _MIB),
        max_choices=config.max_choices,
        body_seconds=config.body_seconds,
        request_timeout_seconds=config.request_timeout_seconds,
        metrics_need_key=config.metrics_need_key,
        log_prompts=config.log_prompts,
        tool_format=None if config.tool_format == "auto" else ToolFormat(config.tool_format),
    )


def _connection_limits(config: ServerConfig) -> ConnectionLimits:
    return ConnectionLimits(
        # Chunked bodies are a little longer on the wire than they are.
        max_message_bytes=int(2 * config.max_body_mib * _MIB) + 64 * 1024,
        write_seconds=config.write_seconds,
    )


def _model_settings(config: ServerConfig) -> ModelSettings:
    return ModelSettings(
        base=config.base,
        quantization=_quantization(config),
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
        arithmetic=config.arithmetic,
        allows_special_tokens=config.allow_special_tokens,
    )


def _served_base(config: ServerConfig, model: AssembledModel) -> ServedBase:
    spec = _quantization(config)
    return ServedBase(
        BaseLineage(
            reference=model.base_reference, revision=model.base_revision, digest=model.base_digest
        ),
        QuantizationRecord(
            scheme=spec.scheme, block_size=spec.block_size, double_quant=spec.double_quant
        ),
        model.template_hash,
    )


def _quantization(config: ServerConfig) -> QuantizationSpec:
    quantized = config.quantization != "none"
    return QuantizationSpec(config.quantization, double_quant=config.double_quant and quantized)


def _scheduling(config: ServerConfig, model: AssembledModel) -> tuple[SchedulerSettings, Scheduler]:
    settings = SchedulerSettings(
        max_num_sequences=config.max_num_sequences,
        max_batch_tokens=config.max_batch_tokens,
        max_prefill_beside_decodes=_prefill_beside_decodes(config, model.backend),
        crowding=_crowding(config, model.device),
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
    return settings, scheduler


def _prefill_beside_decodes(config: ServerConfig, backend: str) -> int | None:
    """In the native kernels a prompt token costs about what a decoding row does.

    On a GPU, and in plain torch, a step has a high price of its own: few large chunks are better.
    """
    if config.max_prefill_beside_decodes is None and backend.startswith("native"):
        return _NATIVE_PREFILL_BESIDE_DECODES
    return config.max_prefill_beside_decodes


def _crowding(config: ServerConfig, device: str) -> float | None:
    """On a CPU each row makes a step longer; on a GPU rows cost next to nothing."""
    if config.crowding is None:
        return _CPU_CROWDING if device == "cpu" else None
    return config.crowding if math.isfinite(config.crowding) else None


def _model_info(config: ServerConfig, model: AssembledModel) -> ModelInfo:
    return ModelInfo(
        base_id=config.served_model_name or model.model_id,
        root=model.base_reference,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        created=int(time.time()),
        aliases=(model.base_reference,),
    )
