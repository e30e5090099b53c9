"""Requests and tokens a minute, by key: token buckets that fill continuously."""

import math
import time
from collections.abc import Callable

from server.api.access.callers import Caller
from server.api.errors import RateLimitedError

Clock = Callable[[], float]


class Bucket:
    """Up to `per_minute` units that may go at once, refilled evenly over a minute."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    def seconds_until(self, amount: float) -> float:
        """Seconds until `amount` units are there (a full bucket is enough for more); 0 for now."""
        self._fill()
        missing = min(amount, float(self.per_minute)) - self._level
        return max(0.0, missing * 60.0 / self.per_minute)

    def take(self, amount: float) -> None:
        """Use `amount` units. The level may fall below 0: what was granted can cost more."""
        self._fill()
        self._level -= amount

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._filled_at) * self.per_minute / 60.0
        self._level = min(float(self.per_minute), self._level + gained)
        self._filled_at = now


class RateLimits:
    """The buckets of all keys. Prompts are paid for on acceptance, answers token by token.

    An answer that costs more than is left is finished, and the next request waits for the debt.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take_request(self, caller: Caller, cost: int = 1) -> None:
        """Count an HTTP request as `cost` requests.

        Raises `RateLimitedError`, and counts nothing then.
        """
        self._take(caller, "requests", caller.requests_per_minute, cost)

    def take_prompt(self, caller: Caller, num_tokens: int) -> None:
        """Count a prompt. Raises `RateLimitedError`, and counts nothing then."""
        self._take(caller, "tokens", caller.tokens_per_minute, num_tokens)

    def take_answer(self, caller: Caller, num_tokens: int) -> None:
        """Count generated tokens."""
        if caller.tokens_per_minute is not None:
            self._bucket(caller, "tokens", caller.tokens_per_minute).take(num_tokens)

    def _take(self, caller: Caller, unit: str, per_minute: int | None, amount: int) -> None:
        if per_minute is None:
            return
        bucket = self._bucket(caller, unit, per_minute)
        seconds = bucket.seconds_until(amount)
        if seconds > 0:
            raise RateLimitedError(
                f"this key is at its limit of {per_minute} {unit} per minute; try again in "
                f"{math.ceil(seconds)} s",
                seconds,
            )
        bucket.take(amount)

    def _bucket(self, caller: Caller, unit: str, per_minute: int) -> Bucket:
        bucket = self._buckets.get((caller.key_id, unit))
        if bucket is None or bucket.per_minute != per_minute:
            bucket = Bucket(per_minute, self._clock)
            self._buckets[caller.key_id, unit] = bucket
        return bucket
