"""The real embedded base in NF4: base, one adapter, and a stack, alone and mixed, against PEFT.

Compute is float32 on both sides, over the same 4-bit codes, so the tolerance is the order of
summation only. A second pass in bfloat16, as served, states what that rounding costs.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from adapters.base.loading import load_base
from adapters.base.quantization import NF4
from adapters.base.reference import DEFAULT_BASE
from adapters.base.training_guard import prepare_for_training
from server.core.batch import ScheduledBatch, ScheduledRow, WorkItem
from server.core.request import SamplingParams
from server.core.stack import AdapterVersion
from server.model.assembly import AssembledModel, ModelSettings, assemble_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_TOKENS = 16
FLOAT32_ATOL = 2e-3
QUESTIONS = [
    "My parcel has not arrived. What can I do?",
    "What is the capital of France?",
    "Tell me about the sea.",
    "How do I water a cactus?",
]
SCALES = {"polite": 0.7, "poet": 0.3}


def folder(name: str) -> Path:
    return EXAMPLES / name / "adapter"


def rank_of(name: str) -> int:
    import json

    return int(json.loads((folder(name) / "adapter_config.json").read_text())["r"])


class Oracle:
    """PEFT on the same NF4 codes in float32; the stack as a float model with summed deltas."""

    def __init__(self) -> None:
        base = load_base(DEFAULT_BASE, NF4, dtype=torch.float32)
        prepare_for_training(base.model)
        self.tokenizer = base.tokenizer
        self.model: Any = PeftModel.from_pretrained(base.model, folder("polite"), "polite")
        self.model.load_adapter(folder("poet"), "poet")
        self.model.eval()

    def logits(self, tokens: list[int], stack: dict[str, float]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        with torch.no_grad():
            if not stack:
                with self.model.disable_adapter():
                    return self.model(ids).logits[0, -1]
            if len(stack) == 1:
                self.model.set_adapter(next(iter(stack)))
                return self.model(ids).logits[0, -1]
            return self._summed(ids, stack)

    def _summed(self, ids: torch.Tensor, stack: dict[str, float]) -> torch.Tensor:
        """Hooks add the exact weighted sum of deltas to the base linears' outputs."""
        handles = []
        for module in self.model.modules():
            if not hasattr(module, "lora_A"):
                continue

            def add(layer: Any, args: Any, out: torch.Tensor, parent: Any = module) -> Any:
                for name, scale in stack.items():
                    if name in parent.lora_A:
                        delta = parent.lora_B[name](parent.lora_A[name](args[0]))
                        out = out + scale * parent.scaling[name] * delta
                return out

            handles.append(module.base_layer.register_forward_hook(add))
        try:
            with self.model.disable_adapter():
                return self.model(ids).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()


class Served:
    """Our runner, driven by hand."""

    def __init__(self, dtype: str, backend: str) -> None:
        settings = ModelSettings(
            base=DEFAULT_BASE,
            quantization=NF4,
            device="cpu",
            dtype=dtype,
            backend=backend,
            max_model_len=512,
            block_size=16,
            kv_cache_gib=0.25,
            num_adapter_pages=16,
            max_batch_tokens=256,
            max_num_sequences=16,
        )
        self.model: AssembledModel = assemble_model(settings)
        self.pages: dict[str, tuple[int, ...]] = {}
        next_page = 0
        for name in SCALES:
            path = folder(name)
            adapter = self.model.loader.load(AdapterVersion(name, 1, name, rank_of(name), path))
            self.pages[name] = tuple(range(next_page, next_page + adapter.num_pages))
            next_page += adapter.num_pages
            self.model.runner.place_adapter(self.pages[name], adapter)

    def generate(
        self, requests: list[tuple[list[int], dict[str, float]]], count: int
    ) -> tuple[list[list[int]], list[list[torch.Tensor]]]:
        """Greedy tokens and logits of all requests in one mixed batch."""
        runner: Any = self.model.runner
        tokens = [list(prompt) for prompt, _ in requests]
        done = [0] * len(requests)
        logits: list[list[torch.Tensor]] = [[] for _ in requests]
        for _ in range(count):
            rows = [
                ScheduledRow(
                    sequence_id=i,
                    token_ids=tokens[i][done[i] :],
                    start=done[i],
                    block_ids=list(range(i * 8, i * 8 + 8)),
                    work=[
                        WorkItem(page, scale)
                        for name, scale in stack.items()
                        for page in self.pages[name]
                    ],
                    sampling=SamplingParams(max_tokens=1, temperature=0.0),
                    samples=True,
                    seed=0,
                    num_generated=0,
                )
                for i, (_, stack) in enumerate(requests)
            ]
            values = runner.logits(ScheduledBatch(tuple(rows)))
            for i, value in enumerate(values):
                done[i] = len(tokens[i])
                logits[i].append(value.float())
                tokens[i].append(int(value.argmax()))
        return [t[len(p) :] for t, (p, _) in zip(tokens, requests, strict=True)], logits


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture(scope="module")
def served() -> Served:
    return Served("float32", "reference")


def requests(oracle: Oracle) -> list[tuple[list[int], dict[str, float]]]:
    stacks: list[dict[str, float]] = [{}, {"polite": 1.0}, {"poet": 1.0}, SCALES]
    prompts = [
        oracle.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in QUESTIONS
    ]
    return [(prompts[(i + i // 4) % 4], stacks[i % 4]) for i in range(8)]


def test_mixed_batch_equals_peft_and_each_request_alone(oracle: Oracle, served: Served) -> None:
    wanted = requests(oracle)
    together, logits = served.generate(wanted, NUM_TOKENS)
    for index, (prompt, stack) in enumerate(wanted):
        alone, alone_logits = served.generate([(prompt, stack)], NUM_TOKENS)
        assert alone[0] == together[index]
        torch.testing.assert_close(
            torch.stack(alone_logits[0]), torch.stack(logits[index]), atol=FLOAT32_ATOL, rtol=0
        )
        tokens = list(prompt)
        for step in range(NUM_TOKENS):
            expected = oracle.logits(tokens, stack)
            torch.testing.assert_close(logits[index][step], expected, atol=FLOAT32_ATOL, rtol=0)
            assert together[index][step] == int(expected.argmax())
            tokens.append(together[index][step])
