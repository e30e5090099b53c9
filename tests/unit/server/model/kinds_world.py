"""A tiny model with an adapter of every kind, and what PEFT's own model says of each."""

import copy
from pathlib import Path
from typing import Any

import torch

from loadtests.fixtures.kinds_engine import KindsEngine, Stack
from loadtests.fixtures.kinds_factory import INVOCATION, KINDS, make_kind, peft_logits
from server.core.settings import SchedulerSettings
from tests.unit.server.model.tiny import BLOCK_SIZE, WINDOW, TinyEngine, tiny_model

NUM_TOKENS = 4
LOGITS_ATOL = 2e-4
PROMPT = [20 + (13 * i) % 200 for i in range(9)] + [7, *INVOCATION, 31, 5, 77]


MERGEABLE = (
    "lora", "rslora", "patterns", "dora", "adalora", "saved_head", "saved_embedding",
    "lora_on_head", "ia3", "trained_tokens",
)  # fmt: skip
"""Kinds that PEFT can merge into this base."""


class World:
    """One architecture with an adapter of every kind, and what PEFT says of each."""

    def __init__(self, name: str, root: Path) -> None:
        self.model = tiny_model(name)
        self.root = root
        self.expected: dict[str, tuple[list[int], torch.Tensor]] = {"": _follow(self.model, PROMPT)}
        self.merged: dict[str, dict[str, torch.Tensor]] = {}
        for seed, kind in enumerate(KINDS):
            peft_model = make_kind(kind, copy.deepcopy(self.model), root / kind, seed=seed)
            self.expected[kind] = _follow(peft_model, PROMPT)
            if name == "llama" and kind in MERGEABLE:
                self.merged[kind] = peft_model.merge_and_unload().state_dict()

    def summed(self, stack: Stack) -> tuple[list[int], torch.Tensor]:
        """The float model whose weights are the base's and the scaled sum of the merged changes."""
        model = copy.deepcopy(self.model)
        base = {name: value.clone() for name, value in model.state_dict().items()}
        total = dict(base)
        for kind, scale in stack:
            for name, value in self.merged[kind].items():
                total[name] = total[name] + scale * (value - base[name])
        model.load_state_dict(total)
        return _follow(model, PROMPT)

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
