"""The attacks are repeatable and varied; a 5xx is always a fault."""

import random

from loadtests.scenarios.hostile import judge, random_attack
from loadtests.scenarios.records import Outcome


def test_attacks_are_the_same_for_the_same_seed_and_of_many_families() -> None:
    first, second = random.Random(3), random.Random(3)
    attacks = [random_attack(first) for _ in range(400)]
    assert attacks == [random_attack(second) for _ in range(400)]
    assert len({attack.name for attack in attacks}) == 11
    assert len({attack.body for attack in attacks}) > 200
    for attack in attacks:
        assert attack.path.startswith("/")
        assert all(name.isprintable() for name in attack.headers)


def test_verdicts() -> None:
    assert judge(400, "") is Outcome.REFUSED
    assert judge(200, "") is Outcome.REFUSED
    assert judge(503, "") is Outcome.REFUSED
    assert judge(500, "") is Outcome.FAULT
    assert judge(0, "reset") is Outcome.BROKEN
    assert judge(0, "reset", 100_000_000) is Outcome.REFUSED
