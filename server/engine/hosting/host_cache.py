"""Adapters in host memory: loaded off the step path, least recently used out first."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from server.core.errors import AdapterTooLargeError, PinLimitError
from server.core.ports import AdapterLoader, HostAdapter
from server.core.stack import AdapterVersion
from server.engine.metrics import EngineMetrics


class HostAdapterCache:
    """Owns loaded adapters up to `max_bytes`. Belongs to one event loop.

    Pinned ones are never evicted; together they fit. A caller that keeps the returned object keeps
    its memory, whatever is evicted here.
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
        self._pinned: set[str] = set()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def num_pinned_bytes(self) -> int:
        """Bytes that eviction can't free."""
        return sum(self._adapters[digest].size_bytes for digest in self._pinned)

    def digests(self) -> tuple[str, ...]:
        """What is in host memory."""
        return tuple(self._adapters)

    def size_of(self, digest: str) -> int:
        """Bytes of an adapter in host memory; 0 when it isn't there."""
        adapter = self._adapters.get(digest)
        return adapter.size_bytes if adapter is not None else 0

    def sizes(self) -> dict[AdapterVersion, int]:
        """Bytes of every adapter in host memory, by the version that was last asked for."""
        return {self._versions[d]: adapter.size_bytes for d, adapter in self._adapters.items()}

    def version_of(self, digest: str) -> AdapterVersion | None:
        """The version that these bytes were last asked for as."""
        return self._versions.get(digest)

    def forget_versions(self, on_device: Iterable[str]) -> None:
        """Drop the records of adapters that are neither here, nor loading, nor on the device."""
        kept = {*self._adapters, *self._loading, *on_device}
        self._versions = {d: version for d, version in self._versions.items() if d in kept}

    async def get(self, adapter: AdapterVersion) -> HostAdapter:
        """The adapter, from memory or from disk; callers for the same digest share one load.

        Raises `AdapterUnreadableError` when it can't be loaded (the next call tries again) and
        `AdapterTooLargeError` when the whole cache can't hold it.
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

    async def pin(self, adapter: AdapterVersion) -> HostAdapter:
        """Load an adapter if need be and keep it until `unpin`. Pinning twice is pinning once.

        Raises as `get` does, and `PinLimitError` when the pinned ones would no longer fit.
        """
        loaded = await self.get(adapter)
        if adapter.digest in self._pinned:
            return loaded
        pinned, size = self.num_pinned_bytes, loaded.size_bytes
        if pinned + size > self._max_bytes:
            raise PinLimitError(
                f"adapter {adapter.label} takes {size} bytes of host memory, and {pinned} of "
                f"{self._max_bytes} are pinned already: unpin another, or raise the setting "
                "host_cache_gib",
                "name",
            )
        self._pinned.add(adapter.digest)
        self._keep(adapter.digest, loaded)
        return loaded

    def unpin(self, digest: str) -> bool:
        """Let an adapter be evicted again; False when it isn't pinned."""
        if digest not in self._pinned:
            return False
        self._pinned.discard(digest)
        self._evict()
        return True

    def drop(self, digest: str) -> None:
        """Forget an adapter that no name means any more, unless it is pinned."""
        if digest in self._adapters and digest not in self._pinned:
            self._num_bytes -= self._adapters.pop(digest).size_bytes

    def is_pinned(self, digest: str) -> bool:
        return digest in self._pinned

    def check_integrity(self) -> None:
        """Assert that the bytes are counted right and the pinned ones are here."""
        assert self._num_bytes == sum(a.size_bytes for a in self._adapters.values())
        assert self._num_bytes <= self._max_bytes
        assert self._pinned <= set(self._adapters)

    def close(self) -> None:
        """Let running loads end and forget everything."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._adapters.clear()
        self._pinned.clear()
        self._num_bytes = 0

    async def _load(self, adapter: AdapterVersion) -> HostAdapter:
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(self._threads, self._loader.load, adapter)
        self._metrics.adapter_load_seconds.observe(time.perf_counter() - start)
        if loaded.size_bytes > self._max_bytes:
            raise AdapterTooLargeError(
                f"adapter {adapter.label} takes {loaded.size_bytes} bytes of host memory; the host "
                f"cache holds {self._max_bytes} (setting host_cache_gib)",
                "model",
            )
        return loaded

    def _loaded(self, digest: str, task: asyncio.Task[HostAdapter]) -> None:
        del self._loading[digest]
        if task.cancelled() or task.exception() is not None:
            self._metrics.adapter_loads.labels("error").inc()
            return
        self._metrics.adapter_loads.labels("ok").inc()
        self._keep(digest, task.result())

    def _keep(self, digest: str, adapter: HostAdapter) -> None:
        """The most recently used one now; others make room, and it too if all others are pinned."""
        if digest not in self._adapters:
            self._adapters[digest] = adapter
            self._num_bytes += adapter.size_bytes
        self._adapters.move_to_end(digest)
        self._evict()

    def _evict(self) -> None:
        for digest in list(self._adapters):
            if self._num_bytes <= self._max_bytes:
                return
            if digest not in self._pinned:
                self._num_bytes -= self._adapters.pop(digest).size_bytes
                self._metrics.adapter_cache_evictions.inc()
