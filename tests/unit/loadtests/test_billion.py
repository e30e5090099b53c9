"""The random Llama and what is said of its two formats."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.billion import SchemeResult, parse_arguments, ratio_lines
from loadtests.fixtures.random_llama import LlamaSizes, build_random_llama
from loadtests.harness.report import CellResult

TINY = LlamaSizes(num_layers=1, hidden=64, intermediate=128, num_heads=4, num_kv_heads=2)


def result(scheme: str, tokens_per_second: float, weights: int) -> SchemeResult:
    cell = CellResult("x", 8, 0, 1, 1, 1.0, tokens_per_second, 1.0, 1.0, 1.0, 1.0, 0.0)
    memory = {("cpu", "weights"): weights, ("cpu", "kv_cache"): 7}
    return SchemeResult(scheme, (cell,), memory, weights + 100, 1.0)


def test_ratios_are_of_weights_process_and_speed() -> None:
    lines = ratio_lines(result("nf4", 30.0, 25), result("none", 10.0, 100))
    assert lines == [
        "NF4 / bf16, weights: 0.25 of the bytes",
        "NF4 / bf16, whole process: 0.62 of the bytes",
        "NF4 / bf16, 8 clients: 3.00x the tokens/s",
    ]


def test_the_defaults_are_one_and_eight_clients_over_a_billion_parameters() -> None:
    arguments = parse_arguments([])
    assert arguments.clients == (1, 8)
    assert arguments.layers == LlamaSizes().num_layers == 16
    assert not arguments.keep


@pytest.mark.slow
def test_a_built_model_loads_and_is_built_once(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    num_parameters = build_random_llama(folder, TINY)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert model.config.num_hidden_layers == 1
    assert len(AutoTokenizer.from_pretrained(str(folder))) == model.config.vocab_size
    mark = folder / "mark"  # is only still there when the folder was left alone
    mark.touch()
    assert build_random_llama(folder, TINY) == num_parameters
    assert mark.exists()
    assert build_random_llama(folder, replace(TINY, num_layers=2)) > num_parameters
    assert not mark.exists()
