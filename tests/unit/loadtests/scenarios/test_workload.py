"""The workload goes to the load process and back unchanged, and knows right from wrong."""

import random
from collections import Counter
from pathlib import Path

from loadtests.scenarios.catalogue import SCENARIOS
from loadtests.scenarios.workload import Workload, golden_prompts, read_workload, zipf_choice


def test_round_trip(tmp_path: Path) -> None:
    workload = Workload(
        ("base", "sql"), golden_prompts(2), 8, {"": {"hi": "ho"}}, ("long",), "churn", ("a", "b"),
        str(tmp_path / "records"),
    )  # fmt: skip
    workload.write(tmp_path / "workload.json")
    assert read_workload(tmp_path / "workload.json") == workload


def test_an_answer_is_judged_by_the_digest_that_gave_it() -> None:
    workload = Workload((), (), 8, {"sha256:a": {"hi": "one"}, "sha256:b": {"hi": "two"}})
    assert workload.is_right("sha256:a", "hi", "one") is True
    assert workload.is_right("sha256:b", "hi", "one") is False
    assert workload.is_right("sha256:c", "hi", "one") is None
    assert workload.is_right("sha256:a", "hello", "one") is None


def test_zipf_prefers_the_first() -> None:
    draw = random.Random(0)
    counts = Counter(zipf_choice(["a", "b", "c", "d"], draw) for _ in range(2000))
    assert counts["a"] > counts["b"] > counts["c"] > counts["d"] > 0
    assert 1.6 < counts["a"] / counts["b"] < 2.9  # 2**1.1 = 2.14


def test_every_scenario_names_users_that_exist() -> None:
    # Importing the users would import gevent, which patches this process.
    source = (Path(__file__).parents[4] / "loadtests" / "scenarios" / "users.py").read_text()
    for scenario in SCENARIOS.values():
        assert scenario.num_users == sum(scenario.users.values()) > 0
        for user in scenario.users:
            assert f"class {user}(ScenarioUser)" in source
