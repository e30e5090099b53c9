"""The benchmark's command line, and a whole run against a fake server."""

import json
from pathlib import Path

import pytest

from loadtests.bench import (
    Peer,
    main,
    make_plan,
    measure_foreign,
    measure_sets,
    parse_arguments,
    print_summary,
)
from loadtests.harness.report import CellResult
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


async def test_the_sets_of_kinds_share_a_server_and_no_prompt() -> None:
    fake = FakeServer()
    plan = make_plan(parse_arguments(["--quick", "--tokens", "2", "--kinds", "both"]))
    async with fake.listening() as url:
        measurement = await measure_sets(url, plan, ["oft", "ia3"])
    cells = {(c.server, c.num_clients, c.num_adapters) for c in measurement.cells}
    assert len(cells) == len(measurement.cells) == 3 * 2 * 2
    assert measurement.memory == {("cpu", "weights"): 7}
    asked = [(body["model"], body["messages"][0]["content"]) for body in fake.bodies]
    models = {model for model, _ in asked}
    assert {"base", "bench-00", "bench-31", "mixed-00", "mixed-31"} <= models
    assert len(set(asked)) == len(asked), "the prefix cache would answer for the prefill"
    assert fake.pins == [
        "/v1/adapters/oft/pin?tier=device", "/v1/adapters/ia3/pin?tier=device",
        "/v1/adapters/oft/unpin", "/v1/adapters/ia3/unpin",
    ]  # fmt: skip


def test_the_summary_compares_with_other_servers_only(capsys: pytest.CaptureFixture[str]) -> None:
    def cell(server: str, speed: float) -> CellResult:
        return CellResult(server, 1, 0, 2, 8, 1.0, speed, 1.0, 1.0, 1.0, 1.0, 0.1)

    labels = ("switchyard", "switchyard, all kinds loaded", "switchyard, mixed kinds", "llama.cpp")
    print_summary([cell(label, 10.0 * (index + 1)) for index, label in enumerate(labels)])
    told = capsys.readouterr().out
    assert "switchyard / llama.cpp (0 adapters), 1 clients: 0.2x at 0 adapters" in told
    assert "kinds" not in told


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
