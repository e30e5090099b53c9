"""What a run calls a problem."""

from dataclasses import replace

from loadtests.scenarios.records import Outcome, Record
from loadtests.scenarios.run import Outage, Sample, bad_answers, growth
from loadtests.scenarios.supervised_server import Vitals


def record(outcome: Outcome, started: float, seconds: float = 1.0) -> Record:
    return Record("SteadyUser", "sql", started, outcome, 200, seconds, note="why")


def test_wrong_answers_and_faults_are_problems_whenever_they_happen() -> None:
    records = [record(o, 100.0) for o in (Outcome.WRONG, Outcome.FAULT)]
    assert len(bad_answers(records, [Outage(100.5, 110.0)])) == 2


def test_broken_answers_are_excused_by_an_outage_only() -> None:
    outage = Outage(killed=103.0, ready=113.0)
    cut_off = record(Outcome.BROKEN, 100.0, seconds=5.0)
    refused_while_starting = record(Outcome.BROKEN, 110.0)
    over_before = record(Outcome.BROKEN, 100.0, seconds=2.0)
    long_after = record(Outcome.BROKEN, 120.0)
    assert bad_answers([cut_off, refused_while_starting], [outage]) == []
    assert len(bad_answers([over_before, long_after], [outage])) == 2
    assert len(bad_answers([cut_off], [])) == 1


def samples(life: int, sizes: list[int]) -> list[Sample]:
    return [Sample(float(i), life, Vitals(size, 10, 5)) for i, size in enumerate(sizes)]


def test_growth_is_looked_for_in_the_longest_life_after_its_warm_up() -> None:
    warm_up_then_flat = [10, 50] + [100] * 18
    assert growth(samples(0, warm_up_then_flat)) == []
    assert len(growth(samples(0, list(range(100, 200, 2))))) == 1
    cached = [replace(s, vitals=replace(s.vitals, cached_bytes=s.vitals.resident_bytes - 50))
              for s in samples(0, list(range(100, 200, 2)))]  # fmt: skip
    assert growth(cached) == [], "adapters may be kept"
    short_life = samples(0, [1, 2, 3])
    assert growth([*short_life, *samples(1, [100] * 20)]) == []
