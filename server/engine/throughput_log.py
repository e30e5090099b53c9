"""A line in the log every few seconds while the engine works, with the figures that vLLM prints."""

import asyncio
import logging
import time
from collections.abc import Callable

from server.engine.metrics import EngineMetrics, value_of

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


class ThroughputLog:
    """Reads `metrics` now and then. `num_resident` is how many adapters are on the device."""

    def __init__(
        self,
        metrics: EngineMetrics,
        num_resident: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._num_resident = num_resident
        self._clock = clock
        self._last = (clock(), 0, 0)

    async def run(self) -> None:
        """Log until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            self.tell()

    def tell(self) -> bool:
        """Log what happened since the last call; returns False, and is silent, for nothing."""
        metrics = self._metrics
        now, prompt, generated = self._clock(), metrics.num_prompt_tokens, metrics.num_drawn_tokens
        then, prompt_then, generated_then = self._last
        self._last = (now, prompt, generated)
        running, waiting = int(value_of(metrics.num_running)), int(value_of(metrics.num_waiting))
        is_idle = (prompt, generated) == (prompt_then, generated_then)
        if is_idle and not running and not waiting:
            return False
        seconds = max(now - then, 1e-9)
        fields = {
            "prompt_tokens_per_second": round((prompt - prompt_then) / seconds, 1),
            "generation_tokens_per_second": round((generated - generated_then) / seconds, 1),
            "running": running,
            "waiting": waiting,
            "kv_cache_usage": round(value_of(metrics.kv_usage), 4),
            "resident_adapters": self._num_resident(),
        }
        logger.info(
            "Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, "
            "Running: %d reqs, Waiting: %d reqs, KV cache usage: %.1f%%, Resident adapters: %d",
            fields["prompt_tokens_per_second"],
            fields["generation_tokens_per_second"],
            running,
            waiting,
            100 * fields["kv_cache_usage"],
            fields["resident_adapters"],
            extra=fields,
        )
        return True
