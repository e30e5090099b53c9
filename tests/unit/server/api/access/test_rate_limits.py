"""Token buckets, on a clock of their own."""

import pytest

from server.api.access.callers import Caller
from server.api.access.rate_limits import RateLimits
from server.api.errors import RateLimitedError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_refill_evenly_and_the_refusal_says_when() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    me = Caller("a", "a", requests_per_minute=6)
    for _ in range(6):
        limits.take_request(me)
    with pytest.raises(RateLimitedError, match=r"6 requests per minute.*in 10 s") as caught:
        limits.take_request(me)
    assert caught.value.retry_after_seconds == pytest.approx(10.0)
    clock.now += 10.0
    limits.take_request(me)
    with pytest.raises(RateLimitedError):
        limits.take_request(me)


def test_answers_may_run_into_debt_that_the_next_prompt_waits_for() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    me = Caller("a", "a", tokens_per_minute=60)
    limits.take_prompt(me, 50)
    limits.take_answer(me, 40)
    with pytest.raises(RateLimitedError) as caught:
        limits.take_prompt(me, 10)
    assert caught.value.retry_after_seconds == pytest.approx(40.0)
    clock.now += 40.0
    limits.take_prompt(me, 10)


def test_a_prompt_larger_than_the_bucket_needs_a_full_one() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    me = Caller("a", "a", tokens_per_minute=60)
    limits.take_prompt(me, 120)
    with pytest.raises(RateLimitedError) as caught:
        limits.take_prompt(me, 120)
    assert caught.value.retry_after_seconds == pytest.approx(120.0)


def test_keys_have_buckets_of_their_own_and_a_new_limit_starts_afresh() -> None:
    limits = RateLimits(Clock())
    limits.take_request(Caller("a", "a", requests_per_minute=1))
    limits.take_request(Caller("b", "b", requests_per_minute=1))
    limits.take_request(Caller("a", "a", requests_per_minute=2))
    for _ in range(1000):
        limits.take_request(Caller("c", "c"))
