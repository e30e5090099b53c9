"""Every architecture that we claim: greedy parity with transformers' generate() and with PEFT."""

import copy
from pathlib import Path

import pytest
import torch

from loadtests.bases import measure
from loadtests.bases import tiny_model as tiny_base_model
from loadtests.fixtures.base_configs import tiny_bases
from server.core.batch import ScheduledBatch, ScheduledRow
from server.core.request import SamplingParams
from server.model.step.step_inputs import StepInputs
from tests.unit.server.model.tiny import CONFIGS, TinyEngine, greedy, make_adapter, tiny_model

NUM_TOKENS = 12
# float32 with another order of summation than transformers' own attention.
LOGITS_ATOL = 2e-4
PROMPTS = [[5 + (7 * i * n) % 240 for i in range(1, n + 1)] for n in (20, 9, 3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_base_and_adapters_in_one_batch_equal_peft(name: str, tmp_path: Path) -> None:
    """Base, two adapters of different rank, each against PEFT alone, all in one mixed batch."""
    model = tiny_model(name)
    base = [greedy(copy.deepcopy(model), prompt, NUM_TOKENS) for prompt in PROMPTS]
    adapted = {}
    for seed, rank in ((1, 4), (2, 12)):
        peft_model = make_adapter(copy.deepcopy(model), tmp_path / str(rank), rank=rank, seed=seed)
        adapted[rank] = [greedy(peft_model, prompt, NUM_TOKENS) for prompt in PROMPTS]

    engine = TinyEngine(model)
    pages = {rank: engine.load(tmp_path / str(rank), rank) for rank in adapted}
    requests, expected = [], []
    for index, prompt in enumerate(PROMPTS):
        requests.append((prompt, []))
        expected.append(base[index])
        for rank, answers in adapted.items():
            requests.append((prompt, [(pages[rank], 1.0)]))
            expected.append(answers[index])
    tokens, logits = engine.generate(requests, NUM_TOKENS)
    for got, got_logits, (want, want_logits) in zip(tokens, logits, expected, strict=True):
        assert got == want
        torch.testing.assert_close(got_logits, want_logits, atol=LOGITS_ATOL, rtol=0)
    for answers in adapted.values():
        assert (answers[0][1] - base[0][1]).abs().max() > 0.05, "the adapter changes nothing"


def test_a_stack_is_the_exact_weighted_sum(tmp_path: Path) -> None:
    """0.7 of one adapter and 0.3 of another equal a float model with the summed deltas."""
    model = tiny_model("llama")
    reference = copy.deepcopy(model)
    for rank, scale in ((4, 0.7), (12, 0.3)):
        peft_model = make_adapter(copy.deepcopy(model), tmp_path / str(rank), rank=rank, seed=rank)
        for layer_name, layer in peft_model.base_model.model.named_modules():
            if hasattr(layer, "get_delta_weight"):
                target = reference.get_submodule(layer_name)
                target.weight.data += scale * layer.get_delta_weight("default")
    engine = TinyEngine(model)
    stack = [
        (engine.load(tmp_path / str(rank), rank), scale) for rank, scale in ((4, 0.7), (12, 0.3))
    ]
    tokens, logits = engine.generate([(PROMPTS[0], stack), (PROMPTS[1], [])], NUM_TOKENS)
    want, want_logits = greedy(reference, PROMPTS[0], NUM_TOKENS)
    assert tokens[0] == want
    torch.testing.assert_close(logits[0], want_logits, atol=LOGITS_ATOL, rtol=0)


def test_alone_and_in_a_batch_of_eight_are_equal(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    make_adapter(copy.deepcopy(model), tmp_path / "a", rank=8, seed=3)
    make_adapter(copy.deepcopy(model), tmp_path / "b", rank=16, seed=4, use_rslora=True)
    engine = TinyEngine(model)
    a, b = engine.load(tmp_path / "a", 8), engine.load(tmp_path / "b", 16)
    stacks = [[], [(a, 1.0)], [(b, 1.0)], [(a, 0.7), (b, 0.3)]]
    requests = [(PROMPTS[i % 3], stacks[i % 4]) for i in range(8)]
    together, logits = engine.generate(requests, NUM_TOKENS)
    for index, request in enumerate(requests):
        alone, alone_logits = engine.generate([request], NUM_TOKENS)
        assert together[index] == alone[0]
        torch.testing.assert_close(logits[index], alone_logits[0], atol=LOGITS_ATOL, rtol=0)


def test_rank_and_alpha_patterns_follow_peft(tmp_path: Path) -> None:
    model = tiny_model("llama")
    peft_model = make_adapter(
        copy.deepcopy(model),
        tmp_path,
        rank=4,
        seed=5,
        rank_pattern={"q_proj": 10, "layers.1.mlp.up_proj": 2},
        alpha_pattern={"q_proj": 5, "down_proj": 1},
    )
    want, want_logits = greedy(peft_model, PROMPTS[0], NUM_TOKENS)
    engine = TinyEngine(model)
    tokens, logits = engine.generate([(PROMPTS[0], [(engine.load(tmp_path, 10), 1.0)])], NUM_TOKENS)
    assert tokens[0] == want
    torch.testing.assert_close(logits[0], want_logits, atol=LOGITS_ATOL, rtol=0)


# One of each way through the generic model, with what is particular to it turned on.
_BASES = (
    "qwen3_5_text", "qwen3_next", "granitemoehybrid (4.0, mamba)", "nemotron_h", "lfm2",
    "falcon_h1", "bamba", "jamba", "mamba2", "gpt_oss (sinks)", "gemma4_text",
    "gemma4_text E2B-like", "gemma3n_text", "gemma3 (4b+, multimodal)", "mistral3 (Small 3.x)",
    "qwen3_vl",
    "llama4 (multimodal)", "qwen3_moe", "deepseek_v3 (MLA, vdim 24)", "phimoe",
    "phi4-mini (partial, longrope)", "gemma3_text nested longrope", "llama dynamic",
    "falcon 7b (MQA)", "falcon alibi", "gptj", "gpt_neo (local attn)", "mpt (alibi)",
    "modernbert-decoder", "diffllama",
    "nemotron (relu2, ln1p)", "stablelm (partial,qk ln)",
)  # fmt: skip


@pytest.mark.parametrize("name", _BASES)
def test_bases_of_every_kind_equal_transformers_and_peft(name: str) -> None:
    result = measure(tiny_bases()[name])
    assert result.outcome == "exact", result


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rwkv", "their forward takes no cache"),
        ("recurrent_gemma", "keeps a sequence's state within the model"),
        ("deepseek_v32 (DSA top-k 8)", "makes sparse"),
        ("glm_moe_dsa (top-k 8)", "makes sparse"),
        ("doge", "gives other logits than for each of them whole"),
        ("minimax (lightning)", "MiniMax uses cache of its own"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(name: str, reason: str) -> None:
    """transformers 5.23: doge's whole forward looks at later tokens beyond its window, so there is
    none to be equal to, and recurrent_gemma's state is the module's own."""
    result = measure(tiny_bases()[name])
    assert result.outcome == "refused"
    assert reason in result.detail


def test_a_state_of_another_moment_is_never_gone_on_with() -> None:
    """A step that failed in the middle leaves its rows' states unusable."""
    model = tiny_base_model(tiny_bases()["lfm2"])
    engine = TinyEngine(model)
    states = engine.generic._states
    assert states is not None
    step = StepInputs.from_batch(ScheduledBatch((_row(0, 0, 3),)), block_size=4, device="cpu")
    states.open(step)
    with pytest.raises(RuntimeError, match="the step before it failed"):
        states.open(
            StepInputs.from_batch(ScheduledBatch((_row(0, 3, 1),)), block_size=4, device="cpu")
        )
    states.open(step)
    states.close(step)


def _row(slot: int, start: int, length: int) -> ScheduledRow:
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    ids = [7] * length
    return ScheduledRow(0, ids, start, [0, 1], (), sampling, True, 0, 0, state_slot=slot)
