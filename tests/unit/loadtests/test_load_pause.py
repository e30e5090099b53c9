"""Which gaps count as the pause of a load."""

from loadtests.harness.http_client import StreamTimings
from loadtests.load_pause import Arrival, longest_gap, measure, summarise
from tests.unit.loadtests.fake_server import FakeServer


def stream(*times: float) -> StreamTimings:
    return StreamTimings(0.0, times[-1], times, len(times), "x" * len(times))


def test_a_gap_counts_when_it_overlaps_the_load() -> None:
    streams = [stream(1.0, 1.1, 3.0, 3.1), stream(1.0, 2.0, 2.1, 9.0)]
    assert longest_gap(streams, 1.5, 1.6) == 1.9
    assert longest_gap(streams[:1], 3.05, 3.06) == 3.1 - 3.0
    assert longest_gap(streams, 20.0, 21.0) == 0.0


def test_an_arrival_after_the_streams_have_ended_measures_nothing() -> None:
    streams = [stream(1.0, 2.0, 3.0, 4.0)]
    met = Arrival("a", True, StreamTimings(2.5, 2.9, (2.8,), 1, "x"))
    late = Arrival("b", False, StreamTimings(5.0, 6.0, (5.5,), 1, "x"))
    median, pauses = summarise(streams, [met, late])
    assert median == 1.0
    assert [(pause.model, pause.longest_gap_seconds) for pause in pauses] == [("a", 1.0)]


async def test_visits_alternate_between_resident_and_new() -> None:
    fake = FakeServer()
    async with fake.listening() as url:
        streams, arrivals = await measure(url, "old", ["new"], num_tokens=8, rest_seconds=0.0)
    assert len(streams) == 8
    assert [(arrival.model, arrival.was_resident) for arrival in arrivals] == [
        ("old", True),
        ("new", False),
    ]
    assert fake.bodies[0]["model"] == "old"
    assert {body["model"] for body in fake.bodies[1:9]} == {"base", "old"}
