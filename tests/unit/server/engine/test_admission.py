"""The bounded queue, and the part of it that one flow may fill."""

import pytest

from server.core.errors import OverloadedError
from server.engine.admission import Admission


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fill(admission: Admission, tenant: str, flow: str) -> int:
    count = 0
    while True:
        try:
            admission.enter(tenant, flow, 1)
        except OverloadedError:
            return count
        count += 1


def test_one_flow_leaves_places_for_others() -> None:
    admission = Admission(10, 80)
    assert fill(admission, "", "noisy") == 80
    assert fill(admission, "", "second") > 0
    for i in range(20):
        fill(admission, "", f"quiet{i}")
    assert admission.num_accepted == 89, "one key leaves places for others"
    assert fill(admission, "other", "noisy") == 1
    with pytest.raises(OverloadedError, match="at most 90"):
        admission.enter("third", "late", 1)


def test_a_key_with_many_adapters_is_bounded_as_one() -> None:
    admission = Admission(10, 80)
    for i in range(30):
        fill(admission, "hog", f"adapter{i}")
    admission.enter("other", "sql", 1)


def test_places_come_back_and_the_wait_is_estimated() -> None:
    clock = Clock()
    admission = Admission(1, 99, clock)
    for i in range(100):
        admission.enter(f"t{i}", "a", 1)
    with pytest.raises(OverloadedError) as caught:
        admission.enter("", "x", 1)
    assert caught.value.retry_after_seconds == 1.0
    for i in range(100):
        clock.now += 30.0
        admission.leave(f"t{i}", "a", 1)
        admission.enter(f"t{i}", "a", 1)
    with pytest.raises(OverloadedError) as caught:
        admission.enter("", "x", 1)
    assert 10 < caught.value.retry_after_seconds <= 60
    for i in range(100):
        admission.leave(f"t{i}", "a", 1)
    assert admission.num_accepted == 0


@pytest.mark.parametrize("count", [6, 91])
def test_a_refusal_tells_nobody_how_busy_others_are(count: int) -> None:
    def refusal(num_others: int) -> str:
        admission = Admission(10, 80)
        for _ in range(75):
            admission.enter("mine", "sql", 1)
        for i in range(num_others):
            admission.enter(f"key{i}", "sql", 1)
        with pytest.raises(OverloadedError) as caught:
            admission.enter("mine", "sql", count)
        return str(caught.value)

    assert refusal(5) == refusal(7)
