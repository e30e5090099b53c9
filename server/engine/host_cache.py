"""Adapters in host memory: loaded off the step path, least recently used out first."""

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from server.core.ports import AdapterLoader, HostAdapter
from server.core.stack import AdapterVersion
from server.engine.metrics import EngineMetrics


class HostAdapterCache:
    """Owns loaded adapters up to `max_bytes`. Belongs to one event loop.

    A caller that keeps the returned object keeps its memory, whatever is evicted here.
    """

    def __init__(
        self,
        loader: AdapterLoader,
        *,
        max_bytes: int,
        metrics: EngineMetrics,
        num_threads: int = 2,
    ) -> None:
        self._loader = loader
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="adapter-loader")
        self._adapters: OrderedDict[str, HostAdapter] = OrderedDict()
        self._versions: dict[str, AdapterVersion] = {}
        self._loading: dict[str, asyncio.Task[HostAdapter]] = {}
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def digests(self) -> tuple[str, ...]:
        """What is in host memory."""
        return tuple(self._adapters)

    def sizes(self) -> dict[AdapterVersion, int]:
        """Bytes of every adapter in host memory, by the version that was last asked for."""
        return {self._versions[d]: adapter.size_bytes for d, adapter in self._adapters.items()}

    def version_of(self, digest: str) -> AdapterVersion | None:
        """The version that these bytes were last asked for as."""
        return self._versions.get(digest)

    async def get(self, adapter: AdapterVersion) -> HostAdapter:
        """The adapter, from memory or from disk; callers for the same digest share one load.

        Raises `AdapterUnreadableError` when it can't be loaded; the next call tries again.
        """
        self._versions[adapter.digest] = adapter
        cached = self._adapters.get(adapter.digest)
        if cached is not None:
            self._adapters.move_to_end(adapter.digest)
            self._metrics.adapter_cache_hits.inc()
            return cached
        task = self._loading.get(adapter.digest)
        if task is None:
            self._metrics.adapter_cache_misses.inc()
            task = asyncio.ensure_future(self._load(adapter))
            self._loading[adapter.digest] = task
            task.add_done_callback(lambda done: self._loaded(adapter.digest, done))
        # Shielded: one caller going away must not end the load for the others.
        return await asyncio.shield(task)

    def close(self) -> None:
        """Let running loads end and forget everything."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._adapters.clear()
        self._num_bytes = 0

    async def _load(self, adapter: AdapterVersion) -> HostAdapter:
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(self._threads, self._loader.load, adapter)
        self._metrics.adapter_load_seconds.observe(time.perf_counter() - start)
        return loaded

    def _loaded(self, digest: str, task: asyncio.Task[HostAdapter]) -> None:
        del self._loading[digest]
        if task.cancelled() or task.exception() is not None:
            self._metrics.adapter_loads.labels("error").inc()
            return
        self._metrics.adapter_loads.labels("ok").inc()
        self._adapters[digest] = task.result()
        self._num_bytes += task.result().size_bytes
        while self._num_bytes > self._max_bytes and len(self._adapters) > 1:
            _, evicted = self._adapters.popitem(last=False)
            self._num_bytes -= evicted.size_bytes
            self._metrics.adapter_cache_evictions.inc()
