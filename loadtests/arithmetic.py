"""Each arithmetic with each output head: held-out loss, greedy agreement, milliseconds of a step.

Reads the eval rows of the examples through the server's own runner and compares every variant's
logits with those of exact inputs and the bf16 head, at every token of the answers. Before that
times steps, variants in turns: 1, 8 and 32 rows at a context of 128, a prompt of 128 tokens.

Takes about 3 minutes on 2 cores, with --quick one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from adapters.base.quantization import QuantizationSpec
from loadtests.harness.command import MeasurementError, Report, add_base, make_parser, run_command
from loadtests.harness.report import format_table
from server.core.batch import ScheduledBatch, ScheduledRow
from server.core.chat import ChatPrompt
from server.core.request import SamplingParams
from server.model.assembly import AssembledModel, ModelSettings, assemble_model
from server.model.forward.native import leave_cores_to_kernels
from server.model.forward.native_description import HeadFormat
from server.model.rendering.render_worker import rendered
from server.model.step.runner import TorchRunner
from server.native.build import load_native
from server.native.weights import Arithmetic

_BLOCK_SIZE = 16
_MAX_TOKENS = 256
_ROWS_AT_ONCE = 16
_GREEDY = SamplingParams(max_tokens=1, temperature=0.0)
_CONTEXT = 128
_STEPS = {"1 row": (1, 1), "8 rows": (8, 1), "32 rows": (32, 1), "prompt": (1, _CONTEXT)}
"""Label -> rows, new tokens of each."""
_HEADER = (
    "arithmetic", "head", "tokens", "loss, nats", "against bf16", "same greedy token",
    *(f"{label}, ms" for label in _STEPS),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """One row's tokens; the answer begins at `num_prompt`."""

    token_ids: tuple[int, ...]
    num_prompt: int

    @property
    def num_answer(self) -> int:
        return len(self.token_ids) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Variant:
    """One arithmetic with one output head."""

    arithmetic: Arithmetic
    head_format: HeadFormat


@dataclass(frozen=True, slots=True)
class VariantResult:
    """`loss` is the mean of -log p over the answers' tokens; steps are medians."""

    arithmetic: str
    head_format: str
    num_tokens: int
    loss: float
    agreement: float
    step_ms: Mapping[str, float]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("arithmetic", str(__doc__), quick="8 rows of each file, fewer steps")
    add_base(parser)
    parser.add_argument(
        "--rows", type=Path, nargs="+", metavar="FILE",
        default=sorted(Path("examples").glob("*/eval.jsonl")),
        help="instruction rows as JSON lines (the examples' eval rows)",
    )  # fmt: skip
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> Report:
    """Load the base once for each variant, read the rows, time the steps, print the table."""
    library = load_native()
    if library is None:
        raise MeasurementError("no native kernels on this machine: see the log line above")
    has_int8 = library.instruction_set.multiplies_bytes
    variants = [
        Variant(arithmetic, head_format)
        for arithmetic in get_args(Arithmetic)
        for head_format in get_args(HeadFormat)
        if arithmetic == "bfloat16" or has_int8
    ]
    models = {variant: _load(arguments.base, variant) for variant in variants}
    step_ms = _time_steps(models, rounds=4 if arguments.quick else 12)
    results: list[VariantResult] = []
    choices: list[int] = []
    for variant, model in models.items():
        texts = _texts(model, arguments.rows, 8 if arguments.quick else None)
        losses, tokens = _read(model, texts)
        choices = choices or tokens
        same = sum(a == b for a, b in zip(tokens, choices, strict=True)) / len(tokens)
        results.append(
            VariantResult(
                variant.arithmetic, variant.head_format, len(tokens), statistics.mean(losses),
                same, step_ms[variant],
            )
        )  # fmt: skip
    first = results[0].loss
    print(format_table(_HEADER, [
        (r.arithmetic, r.head_format, str(r.num_tokens), f"{r.loss:.4f}", f"{r.loss - first:+.4f}",
         f"{r.agreement:.1%}", *(f"{r.step_ms[label]:.2f}" for label in _STEPS))
        for r in results
    ]))  # fmt: skip
    return {"variants": [asdict(result) for result in results]}


def _load(base: str, variant: Variant) -> AssembledModel:
    model = assemble_model(
        ModelSettings(
            base=base, quantization=QuantizationSpec(), device="cpu", dtype="auto",
            backend="native", max_model_len=None, block_size=_BLOCK_SIZE, kv_cache_gib=0.5,
            num_adapter_pages=8, max_batch_tokens=_MAX_TOKENS, max_num_sequences=_MAX_TOKENS,
            head_format=variant.head_format, arithmetic=variant.arithmetic,
        )
    )  # fmt: skip
    leave_cores_to_kernels()
    return model


def _time_steps(
    models: Mapping[Variant, AssembledModel], *, rounds: int
) -> dict[Variant, dict[str, float]]:
    """Median milliseconds of each step, without drawing tokens; variants take turns."""
    burst = 5
    medians: dict[Variant, dict[str, float]] = {variant: {} for variant in models}
    for label, (num_rows, num_new) in _STEPS.items():
        step = _step(num_rows, num_new)
        milliseconds: dict[Variant, list[float]] = {variant: [] for variant in models}
        for _ in range(rounds):
            for variant, model in models.items():
                runner = _runner(model)
                runner.logits(step)  # not counted: the caches still hold another variant's weights
                for _ in range(burst):
                    start = time.perf_counter()
                    runner.logits(step)
                    milliseconds[variant].append((time.perf_counter() - start) * 1e3)
        for variant, values in milliseconds.items():
            medians[variant][label] = statistics.median(values)
    return medians


def _step(num_rows: int, num_new: int) -> ScheduledBatch:
    """Rows of `_CONTEXT` tokens, the last `num_new` of them new."""
    blocks_each = _CONTEXT // _BLOCK_SIZE
    rows = []
    for row in range(num_rows):
        tokens = tuple(3 + 7 * (row + i) % 200 for i in range(num_new))
        blocks = range(row * blocks_each, (row + 1) * blocks_each)
        start = _CONTEXT - num_new
        rows.append(ScheduledRow(row, tokens, start, blocks, (), _GREEDY, True, 0, 0))
    return ScheduledBatch(tuple(rows))


def _runner(model: AssembledModel) -> TorchRunner:
    assert isinstance(model.runner, TorchRunner)
    return model.runner


def _texts(model: AssembledModel, files: Sequence[Path], limit: int | None) -> list[Text]:
    texts: list[Text] = []
    for file in files:
        for line in file.read_text().splitlines()[:limit]:
            question, reply = _first_turn(json.loads(line))
            turn = {"role": "user", "content": question}
            order = model.tokenizer.render_order(ChatPrompt([turn]), model.max_model_len)
            prompt = model.tokenizer.encode_rendered(order, rendered(order))
            answer = model.tokenizer.encode(reply)
            texts.append(Text((*prompt, *answer)[:_MAX_TOKENS], len(prompt)))
    texts = [text for text in texts if text.num_prompt < len(text.token_ids)]
    if not texts:
        raise MeasurementError("no rows with an answer: give --rows FILE")
    return texts


def _first_turn(row: Mapping[str, Any]) -> tuple[str, str]:
    """Question and answer of an instruction row or a conversation."""
    if "messages" in row:
        messages = [message for message in row["messages"] if message["role"] != "system"]
        return str(messages[0]["content"]), str(messages[1]["content"])
    parts = (row["instruction"], row.get("input"))
    return "\n\n".join(str(part) for part in parts if part), str(row["output"])


def _read(model: AssembledModel, texts: Sequence[Text]) -> tuple[list[float], list[int]]:
    """-log p and the greedy choice at every token of the answers, in order of the texts."""
    runner = _runner(model)
    blocks_each = _MAX_TOKENS // _BLOCK_SIZE
    losses: list[list[float]] = [[] for _ in texts]
    choices: list[list[int]] = [[] for _ in texts]
    for first in range(0, len(texts), _ROWS_AT_ONCE):
        group = range(first, min(first + _ROWS_AT_ONCE, len(texts)))
        for index in group:  # a prompt each, then a token of every row a step
            _read_step(runner, texts, [index], blocks_each, losses, choices)
        while open_rows := [i for i in group if len(losses[i]) < texts[i].num_answer]:
            _read_step(runner, texts, open_rows, blocks_each, losses, choices)
    return [x for row in losses for x in row], [x for row in choices for x in row]


def _read_step(
    runner: TorchRunner, texts: Sequence[Text], indices: Sequence[int], blocks_each: int,
    losses: Sequence[list[float]], choices: Sequence[list[int]],
) -> None:  # fmt: skip
    """One step over the next tokens of some rows; appends what their logits say."""
    rows = []
    for index in indices:
        text, done = texts[index], len(losses[index])
        start = text.num_prompt + done - 1 if done else 0
        tokens = text.token_ids[start : text.num_prompt + done]
        place = index % _ROWS_AT_ONCE
        blocks = range(place * blocks_each, (place + 1) * blocks_each)
        rows.append(ScheduledRow(index, tokens, start, blocks, (), _GREEDY, True, 0, 0))
    for index, logits in zip(indices, runner.logits(ScheduledBatch(tuple(rows))), strict=True):
        text = texts[index]
        token = text.token_ids[text.num_prompt + len(losses[index])]
        losses[index].append(-float(torch.log_softmax(logits.float(), -1)[token]))
        choices[index].append(int(logits.argmax()))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the model can't be loaded or there are no rows."""
    return run_command("arithmetic", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
