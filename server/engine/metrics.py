"""What Prometheus sees of the engine. Names and labels are those of the public contract."""

from collections.abc import Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.core.stack import AdapterVersion
from server.engine.step_histogram import StepHistogram

_PREFIX = "switchyard_"
_MAX_ADAPTER_LABELS = 200
_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineMetrics:
    """Registers and holds the engine's series on `registry` (no global registry).

    `num_prompt_tokens` and `num_drawn_tokens` are the totals over all adapters, also of those whose
    series are gone.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: Iterable[float] = _LATENCY_BUCKETS
        ) -> Histogram:
            return Histogram(
                _PREFIX + name, text, labels, registry=registry, buckets=tuple(buckets)
            )

        def step_histogram(
            name: str, text: str, buckets: Iterable[float] = _LATENCY_BUCKETS
        ) -> StepHistogram:
            return StepHistogram(_PREFIX + name, text, registry=registry, buckets=buckets)

        self.num_running = gauge("num_requests_running", "Sequences in the batch")
        self.num_waiting = gauge("num_requests_waiting", "Sequences in the queue")
        self.kv_usage = gauge("kv_cache_usage_ratio", "Held KV blocks over all KV blocks")
        self.memory = gauge("memory_bytes", "Bytes by component", "device", "component")
        self.device_memory = {
            kind: gauge(f"device_memory_{kind}_bytes", f"{kind} memory of the device", "device")
            for kind in ("used", "free", "total")
        }
        self.adapter_resident = gauge(
            "adapter_resident", "1 where an adapter version is", "adapter", "version", "tier"
        )
        self.adapter_bytes = gauge("adapter_bytes", "Bytes in a tier", "adapter", "version")
        self.slots_used = gauge("adapter_slots_used", "Adapter pages in use")
        self.slots_pinned = gauge("adapter_slots_pinned", "Adapters that running sequences need")
        self.slots_total = gauge("adapter_slots_total", "Adapter pages in the bank")
        self.backend_info = gauge("kernel_backend_info", "1 for the backend in use", "backend")
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens", "adapter")
        self.generation_tokens = counter("generation_tokens_total", "Drawn tokens", "adapter")
        self.requests = counter("requests_total", "Finished sequences", "adapter", "finish_reason")
        self.prefix_queries = counter("prefix_cache_queries_total", "Full prompt blocks looked up")
        self.prefix_hits = counter("prefix_cache_hits_total", "Prompt blocks found")
        self.preemptions = counter("preemptions_total", "Sequences put back into the queue")
        self.out_of_memory = counter("out_of_memory_total", "Steps halved for lack of memory")
        self.adapter_loads = counter("adapter_loads_total", "Adapters read from disk", "result")
        self.adapter_cache_hits = counter("adapter_cache_hits_total", "Found in host memory")
        self.adapter_cache_misses = counter("adapter_cache_misses_total", "Not in host memory")
        self.adapter_cache_evictions = counter("adapter_cache_evictions_total", "Host evictions")
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From acceptance to the first token", "adapter"
        )
        self.inter_token_latency = step_histogram(
            "inter_token_latency_seconds", "Between two tokens of a sequence"
        )
        self.e2e_latency = histogram("e2e_request_latency_seconds", "From acceptance to the end")
        self.queue_time = histogram("request_queue_time_seconds", "Until the first step")
        self.adapter_load_seconds = histogram("adapter_load_seconds", "Disk to host memory")
        self.step_seconds = step_histogram("step_seconds", "One forward with sampling")
        self.model_seconds = counter("model_seconds_total", "Part of the steps spent in the model")
        self.prefill_seconds = step_histogram("prefill_seconds", "Steps that hold a prefill chunk")
        self.decode_seconds = step_histogram("decode_seconds", "Steps that only decode")
        self.batch_size = step_histogram("batch_size", "Rows of a step", buckets=_COUNT_BUCKETS)
        self.adapters_per_step = step_histogram(
            "adapters_per_step", "Distinct adapters of a step", buckets=(0, *_COUNT_BUCKETS)
        )
        self.version_requests = counter(
            "adapter_version_requests_total",
            "Finished sequences of one adapter alone, by version (to compare a canary)",
            "adapter", "version", "finish_reason",
        )  # fmt: skip
        self.version_latency = histogram(
            "adapter_version_request_latency_seconds",
            "From acceptance to the end, by version",
            "adapter", "version",
        )  # fmt: skip
        self._by_adapter = (
            self.prompt_tokens, self.generation_tokens, self.requests, self.time_to_first_token,
        )  # fmt: skip
        self._by_version = (self.version_requests, self.version_latency)
        self._adapter_labels: set[str] = set()
        self.num_prompt_tokens = 0
        self.num_drawn_tokens = 0
        self._versions: set[tuple[str, str]] = set()

    def count_prompt(self, label: str, num_tokens: int) -> None:
        """A prompt was accepted for the stack called `label`."""
        self.num_prompt_tokens += num_tokens
        self.prompt_tokens.labels(self.adapter_label(label)).inc(num_tokens)

    def count_drawn(self, label: str, num_tokens: int) -> None:
        """Tokens were drawn for the stack called `label`."""
        self.num_drawn_tokens += num_tokens
        self.generation_tokens.labels(self.adapter_label(label)).inc(num_tokens)

    def adapter_label(self, label: str) -> str:
        """`label`, or `other` once there are too many distinct ones."""
        if label in self._adapter_labels:
            return label
        if len(self._adapter_labels) >= _MAX_ADAPTER_LABELS:
            return "other"
        self._adapter_labels.add(label)
        return label

    def observe_version(self, adapter: AdapterVersion, reason: str, seconds: float) -> None:
        """Count one end of a sequence that used `adapter` alone."""
        key = (adapter.name, str(adapter.version))
        if key not in self._versions:
            if len(self._versions) >= _MAX_ADAPTER_LABELS:
                key = ("other", "other")
            self._versions.add(key)
        self.version_requests.labels(*key, reason).inc()
        self.version_latency.labels(*key).observe(seconds)

    def keep_adapters(self, names: Collection[str]) -> None:
        """Drop the series of every adapter, and of every stack, that isn't made of `names`."""
        known = {*names, "base", "other"}
        for label in [s for s in self._adapter_labels if not known.issuperset(s.split("+"))]:
            for series in self._by_adapter:
                series.remove_by_labels({"adapter": label})
            self._adapter_labels.discard(label)
        for adapter, version in [key for key in self._versions if key[0] not in known]:
            for series in self._by_version:
                series.remove_by_labels({"adapter": adapter, "version": version})
            self._versions.discard((adapter, version))

    def set_residency(
        self, host: Mapping[AdapterVersion, int], on_device: Iterable[AdapterVersion]
    ) -> None:
        """Replace the series of resident adapters; those of adapters that are gone disappear."""
        self.adapter_resident.clear()
        self.adapter_bytes.clear()
        for adapter, num_bytes in host.items():
            version = str(adapter.version)
            self.adapter_bytes.labels(adapter.name, version).set(num_bytes)
            self.adapter_resident.labels(adapter.name, version, "host").set(1)
        for adapter in on_device:
            self.adapter_resident.labels(adapter.name, str(adapter.version), "device").set(1)

    def set_memory(self, device: str, components: Mapping[str, int]) -> None:
        """Replace the gauges of the components given."""
        for component, num_bytes in components.items():
            self.memory.labels(device, component).set(num_bytes)


def value_of(gauge: Gauge) -> float:
    """What a gauge without labels stands at."""
    (family,) = gauge.collect()
    return float(family.samples[0].value)
