"""The composition root: builds every part around a loaded model."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from adapters.base.quantization import QuantizationSpec
from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage, QuantizationRecord
from adapters.store.remote_store import open_store
from adapters.store.store import AdapterStore
from server.api.access.drain import Drain
from server.api.access.keys import KeyRing
from server.api.app import VERSION, create_app
from server.api.telemetry.tracing import tracer_provider
from server.configuration import ServerConfig
from server.core.limits import AdapterLimits
from server.core.model_info import ModelInfo
from server.core.settings import SchedulerSettings
from server.engine.administration.administration import Administration
from server.engine.administration.merge_process import MergeProcess
from server.engine.engine import Engine
from server.engine.hosting.catalog import CatalogChange, StoreCatalog
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.hosting.store_keeper import StoreKeeper
from server.engine.hosting.verified_loader import VerifiedLoader
from server.engine.metrics import EngineMetrics
from server.engine.step_timeout import stalled_seconds, step_timeout_seconds
from server.engine.step_watchdog import StepWatchdog
from server.engine.throughput_log import ThroughputLog
from server.model.assembly import AssembledModel, ModelSettings, assemble_model
from server.model.forward.native import leave_cores_to_kernels
from server.model.rendering.render_pool import RenderPool
from server.scheduling.scheduler import Scheduler
from server.startup import Application, Compose, api_settings, serve_when_loaded
from server.supervision import end_hung_process

logger = logging.getLogger(__name__)

_GIB = 1 << 30

_NATIVE_PREFILL_BESIDE_DECODES = 32

_PREFILL_CONTEXT_COST = 2048
"""Steps of the native kernels with 32 prompt tokens take 11 ms at the beginning of a text, and 21,
27, 38 and 79 ms behind 1024, 2048, 4096 and 8000 tokens (SmolLM2-135M, 2 cores)."""

_CPU_CROWDING = 0.5
"""See docs/adr/0022 for what it costs and gives."""


def load_server(config: ServerConfig, started: float) -> Compose:
    """Load the base and the store, on any thread; what is returned builds the rest on the loop.

    Raises `SwitchyardError`, `AdapterError` or `OSError` when the server can't start.
    """
    # Read while the base is loaded, so that a thousand adapters don't make the start longer.
    store = open_store(config.store)
    with ThreadPoolExecutor(1, "store-reader") as pool:
        reading = pool.submit(store.targets_by_name)
        model = assemble_model(_model_settings(config))
        reading.result()
    if model.backend.startswith("native"):
        leave_cores_to_kernels()
    return partial(_compose, config, model, store, started=started)


async def serve_model(
    config: ServerConfig,
    model: AssembledModel,
    store: AdapterStore,
    *,
    started: float,
    make_engine: Callable[..., Engine] = Engine,
) -> None:
    """Serve an assembled model until told to stop; `startup.run_server` says what is raised.

    `started` is when the start began, in `perf_counter` seconds. `make_engine` gets what `Engine`
    is built from; the load tests put one there that needs no model.
    """
    compose = partial(_compose, config, model, store, started=started, make_engine=make_engine)
    await serve_when_loaded(config, lambda: compose)


def _compose(
    config: ServerConfig,
    model: AssembledModel,
    store: AdapterStore,
    keys: KeyRing | None,
    drain: Drain,
    *,
    started: float,
    make_engine: Callable[..., Engine] = Engine,
) -> Application:
    """Build everything around the model, on the event loop that will serve it."""
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    served = _served_base(model)
    catalog = StoreCatalog(
        store,
        served=served,
        base_modules=model.module_shapes,
        base_template=model.template,
        allowed_roots=(store.root, *config.adapter_roots),
        max_rank=config.max_lora_rank,
        allow_mismatch=config.allow_mismatch,
    )
    cache = HostAdapterCache(
        VerifiedLoader(
            model.loader,
            catalog.quarantine,
            None if config.allow_mismatch else model.template,
        ),
        max_bytes=int(config.host_cache_gib * _GIB),
        metrics=metrics,
    )
    settings, scheduler = _scheduling(config, model)
    step_timeout = config.step_timeout_seconds
    if step_timeout is None:
        step_timeout = step_timeout_seconds(model.full_step_seconds, model.device)
        logger.info(
            "a full step takes up to %.2g s here, so step_timeout_seconds is %.0f",
            model.full_step_seconds,
            step_timeout,
        )
    engine = make_engine(
        scheduler,
        model.runner,
        model.tokenizer,
        cache,
        settings=settings,
        metrics=metrics,
        device=model.device,
        stalled_seconds=stalled_seconds(step_timeout),
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
        watchdog = _step_watchdog(engine, drain, step_timeout)
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
        settings=api_settings(config),
        lifespan=lifespan,
        before_scrape=refresh_metrics,
        keys=keys,
        drain=drain,
        tracer=tracing.get_tracer("switchyard") if tracing else None,
    )
    return Application(app, engine, tracing.shutdown if tracing else None)


def _step_watchdog(engine: Engine, drain: Drain, timeout_seconds: float) -> StepWatchdog:
    loop = asyncio.get_running_loop()
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


def _served_base(model: AssembledModel) -> ServedBase:
    spec = model.quantization
    return ServedBase(
        BaseLineage(
            reference=model.base_reference, revision=model.base_revision, digest=model.base_digest
        ),
        QuantizationRecord(
            scheme=spec.scheme, block_size=spec.block_size, double_quant=spec.double_quant
        ),
        model.template.hash,
    )


def _quantization(config: ServerConfig) -> QuantizationSpec:
    quantized = config.quantization != "none"
    return QuantizationSpec(config.quantization, double_quant=config.double_quant and quantized)


def _scheduling(config: ServerConfig, model: AssembledModel) -> tuple[SchedulerSettings, Scheduler]:
    settings = SchedulerSettings(
        max_num_sequences=config.max_num_sequences,
        max_batch_tokens=config.max_batch_tokens,
        max_prefill_beside_decodes=_prefill_beside_decodes(config, model.backend),
        prefill_context_cost=_PREFILL_CONTEXT_COST if model.backend.startswith("native") else None,
        crowding=_crowding(config, model.device),
        max_waiting=config.max_waiting,
        max_model_len=model.max_model_len,
        max_adapters_per_step=config.max_adapters_per_step,
        block_size=config.block_size,
        num_blocks=model.num_blocks,
        num_adapter_pages=config.adapter_bank_pages,
        max_lora_rank=config.max_lora_rank,
        enable_prefix_cache=_has_prefix_cache(config, model),
    )
    scheduler = Scheduler(
        settings, eos_token_ids=model.tokenizer.eos_token_ids, base_digest=model.base_digest
    )
    return settings, scheduler


def _has_prefix_cache(config: ServerConfig, model: AssembledModel) -> bool:
    """A state isn't kept for each block, so a sequence with one can't start behind cached ones."""
    if config.prefix_cache and model.keeps_states:
        logger.info("prefix cache: off, this base's sequences keep a state beside their blocks")
    return config.prefix_cache and not model.keeps_states


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
