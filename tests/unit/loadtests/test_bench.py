"""The benchmark's command line, and a whole run against a fake server."""

import json
from pathlib import Path

import pytest

from loadtests.bench import Peer, main, make_plan, measure_foreign, parse_arguments
from tests.unit.loadtests.fake_server import FakeServer


def test_the_grid_is_the_agreed_one() -> None:
    plan = make_plan(parse_arguments([]))
    assert plan.num_clients == (1, 8, 32)
    assert plan.num_adapters == (0, 1, 8, 32)
    assert len(plan.num_requests_each) == len(plan.num_clients)
    assert (plan.rank, plan.shape.num_tokens, plan.shape.ignore_eos) == (16, 64, True)


def test_quick_keeps_the_corners() -> None:
    plan = make_plan(parse_arguments(["--quick", "--no-ignore-eos"]))
    assert plan.num_clients == (1, 32)
    assert plan.num_adapters == (0, 32)
    assert not plan.shape.ignore_eos


def test_kinds_are_measured_one_after_the_other() -> None:
    assert make_plan(parse_arguments([])).kinds == ("lora",)
    assert make_plan(parse_arguments(["--kinds", "both"])).kinds == ("lora", "loaded", "mixed")


def test_a_peer_may_have_a_label() -> None:
    urls = ["--url", "http://127.0.0.1:1=llama.cpp", "--url", "http://127.0.0.1:2"]
    assert parse_arguments(urls).url == [
        Peer("http://127.0.0.1:1", "llama.cpp"),
        Peer("http://127.0.0.1:2", "http://127.0.0.1:2"),
    ]


async def test_any_server_can_be_measured_by_its_first_model() -> None:
    fake = FakeServer()
    plan = make_plan(parse_arguments(["--quick", "--tokens", "2"]))
    async with fake.listening() as url:
        measurement = await measure_foreign(plan, Peer(url, "peer"), [])
    assert [cell.num_clients for cell in measurement.cells] == [1, 32]
    assert {cell.num_adapters for cell in measurement.cells} == {0}
    assert {cell.server for cell in measurement.cells} == {"peer"}
    assert {body["model"] for body in fake.bodies} == {"base"}


async def test_given_models_take_turns() -> None:
    fake = FakeServer()
    plan = make_plan(parse_arguments(["--quick", "--tokens", "2"]))
    async with fake.listening() as url:
        measurement = await measure_foreign(plan, Peer(url, "peer"), ["a", "b"])
    assert {cell.num_adapters for cell in measurement.cells} == {2}
    assert {body["model"] for body in fake.bodies} == {"a", "b"}


def test_a_server_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "numbers.json"
    arguments = ["--no-own", "--no-peft", "--url", "http://127.0.0.1:1", "--json", str(target)]
    assert main(arguments) == 1
    assert "the benchmark failed: no server at 127.0.0.1:1" in capsys.readouterr().err
    assert not target.exists()


def test_the_numbers_are_written_when_there_is_nothing_to_measure(tmp_path: Path) -> None:
    target = tmp_path / "numbers.json"
    assert main(["--no-own", "--no-peft", "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert report["cells"] == []
    assert report["peft"] is None
    assert report["plan"]["num_adapters"] == [0, 1, 8, 32]
