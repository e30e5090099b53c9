"""The output head in bf16, int8 and NF4: held-out loss and greedy agreement of the base.

Reads the eval rows of the examples through the server's own runner, a token of every row a step,
and compares each format's logits with the bf16 head's at every token of the answers. Speed is
measured by `loadtests.bench --server-arg=--head-format=int8`.

Takes about 2 minutes on 2 cores.
"""

import argparse
import json
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
from server.model.native import leave_cores_to_kernels
from server.model.native_description import HeadFormat
from server.model.runner import TorchRunner

_BLOCK_SIZE = 16
_MAX_TOKENS = 256
_GREEDY = SamplingParams(max_tokens=1, temperature=0.0)
_HEADER = ("head", "tokens", "loss, nats", "against bf16", "same greedy token")


@dataclass(frozen=True, slots=True)
class Text:
    """One row's tokens; the answer begins at `num_prompt`."""

    token_ids: tuple[int, ...]
    num_prompt: int


@dataclass(frozen=True, slots=True)
class FormatResult:
    """`loss` is the mean of -log p over the answers' tokens."""

    head_format: str
    num_tokens: int
    loss: float
    agreement: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("head_formats", str(__doc__), quick="8 rows of each file")
    add_base(parser)
    parser.add_argument(
        "--rows", type=Path, nargs="+", metavar="FILE",
        default=sorted(Path("examples").glob("*/eval.jsonl")),
        help="instruction rows as JSON lines (the examples' eval rows)",
    )  # fmt: skip
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> Report:
    """Load the base once for each format, read the rows, print the table."""
    results: list[FormatResult] = []
    choices: list[int] = []
    for head_format in get_args(HeadFormat):
        model = _load(arguments.base, head_format)
        texts = _texts(model, arguments.rows, 8 if arguments.quick else None)
        losses, tokens = _read(model, texts)
        choices = choices or tokens
        same = sum(a == b for a, b in zip(tokens, choices, strict=True)) / len(tokens)
        results.append(FormatResult(head_format, len(tokens), sum(losses) / len(losses), same))
    first = results[0].loss
    print(format_table(_HEADER, [
        (r.head_format, str(r.num_tokens), f"{r.loss:.4f}", f"{r.loss - first:+.4f}",
         f"{r.agreement:.1%}")
        for r in results
    ]))  # fmt: skip
    return {"formats": [asdict(result) for result in results]}


def _load(base: str, head_format: HeadFormat) -> AssembledModel:
    model = assemble_model(
        ModelSettings(
            base=base, quantization=QuantizationSpec(), device="cpu", dtype="auto",
            backend="native", max_model_len=None, block_size=_BLOCK_SIZE, kv_cache_gib=0.5,
            num_adapter_pages=8,
            max_batch_tokens=_MAX_TOKENS, max_num_sequences=_MAX_TOKENS, head_format=head_format,
        )
    )  # fmt: skip
    leave_cores_to_kernels()
    return model


def _texts(model: AssembledModel, files: Sequence[Path], limit: int | None) -> list[Text]:
    texts: list[Text] = []
    for file in files:
        for line in file.read_text().splitlines()[:limit]:
            question, reply = _first_turn(json.loads(line))
            turn = {"role": "user", "content": question}
            prompt = model.tokenizer.render_chat(ChatPrompt([turn]))
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
    """-log p and the greedy choice at every token of the answers."""
    runner = model.runner
    assert isinstance(runner, TorchRunner)
    blocks_each = _MAX_TOKENS // _BLOCK_SIZE
    losses: list[float] = []
    choices: list[int] = []
    for index, text in enumerate(texts):
        blocks = range((index % 2) * blocks_each, (index % 2 + 1) * blocks_each)
        prompt, rest = text.token_ids[: text.num_prompt], text.token_ids[text.num_prompt :]
        start, chunk = 0, tuple(prompt)
        for token in rest:
            row = ScheduledRow(0, chunk, start, blocks, (), _GREEDY, True, 0, 0)
            logits = runner.logits(ScheduledBatch((row,)))[0].float()
            losses.append(-float(torch.log_softmax(logits, -1)[token]))
            choices.append(int(logits.argmax()))
            start, chunk = start + len(chunk), (token,)
    return losses, choices


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the model can't be loaded or there are no rows."""
    return run_command("head_formats", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
