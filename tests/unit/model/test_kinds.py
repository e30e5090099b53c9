"""Every kind of adapter against PEFT's own model: alone, all mixed in one batch, in stacks."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from loadtests.kinds_engine import KindsEngine
from loadtests.kinds_factory import INVOCATION, KINDS, make_kind, peft_logits
from server.core.settings import SchedulerSettings
from tests.unit.model.tiny import BLOCK_SIZE, WINDOW, TinyEngine, tiny_model

NUM_TOKENS = 5
LOGITS_ATOL = 2e-4
PROMPT = [20 + (13 * i) % 200 for i in range(9)] + [7, *INVOCATION, 31, 5, 77]
ARCHITECTURES = ("llama", "gpt2")


class World:
    """One architecture with an adapter of every kind, and what PEFT says of each."""

    def __init__(self, name: str, root: Path) -> None:
        self.model = tiny_model(name)
        self.root = root
        self.expected: dict[str, tuple[list[int], torch.Tensor]] = {"": _follow(self.model, PROMPT)}
        for seed, kind in enumerate(KINDS):
            peft_model = make_kind(kind, copy.deepcopy(self.model), root / kind, seed=seed)
            self.expected[kind] = _follow(peft_model, PROMPT)

    def engine(self, **changes: Any) -> KindsEngine:
        tiny = TinyEngine(copy.deepcopy(self.model), num_pages=96)
        settings = {
            "max_num_sequences": 32,
            "max_batch_tokens": 64,
            "max_model_len": WINDOW,
            "block_size": BLOCK_SIZE,
            "num_blocks": 256,
            "num_adapter_pages": 96,
            **changes,
        }
        engine = KindsEngine(tiny.runner, tiny.loader, SchedulerSettings(**settings))
        for kind in KINDS:
            engine.load(kind, self.root / kind)
        return engine


def _follow(model: Any, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens and logits, every step computed anew over all tokens."""
    tokens, logits = list(prompt), []
    for _ in range(NUM_TOKENS):
        logits.append(peft_logits(model, tokens))
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


def test_each_kind_alone_and_all_in_one_batch_equal_peft(world: World) -> None:
    engine = world.engine()
    names = list(world.expected)
    requests = [(PROMPT, [(name, 1.0)] if name else []) for name in names]
    together = engine.generate(requests, NUM_TOKENS)
    wrong = {}
    for name, request, mixed in zip(names, requests, together, strict=True):
        engine.forget_cache()
        (alone,) = engine.generate([request], NUM_TOKENS)
        tokens, logits = world.expected[name]
        worst = max(float((a.logits - logits).abs().max()) for a in (alone, mixed))
        if (alone.token_ids, mixed.token_ids) != (tokens, tokens) or worst > LOGITS_ATOL:
            wrong[name] = worst
    assert not wrong
    base = world.expected[""][1]
    assert all((world.expected[n][1] - base).abs().max() > 0.02 for n in names if n)
