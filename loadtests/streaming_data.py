"""Training data larger than memory: what preparing it takes, and whether memory grows with it.

    python -m loadtests.streaming_data                   # 0.25 and 1 GB: half an hour
    python -m loadtests.streaming_data --quick           # 2 and 4 MB: proves that it runs

For each size a generated file of chats goes through what `trainer run` does with it when
`data.streaming` is set: read, cleaned, split, labelled, reported. Each in a process of its own,
whose peak of resident memory is compared with what it had with libraries and tokenizer loaded.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.fixtures.chat_rows import lesson_words
from loadtests.harness.command import Report, add_base, make_parser, run_command

ANSWER_WORDS = (20, 500)
"""Even between these: 1.6 KB and 400 tokens a row on average, the longest near `max_length`."""

DUPLICATE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Prepared:
    """One file's way through the preparation. `start_bytes` were resident before it began."""

    file_bytes: int
    num_read: int
    num_train: int
    num_tokens: int
    seconds: float
    start_bytes: int
    peak_bytes: int

    @property
    def grown_bytes(self) -> int:
        """What the preparation itself held at most."""
        return self.peak_bytes - self.start_bytes


def write_chats(path: Path, num_bytes: int, seed: int) -> None:
    """Rows of one question and one answer until the file has so many bytes."""
    draw = random.Random(seed)
    words = lesson_words()
    written, line = 0, ""
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            if not line or draw.random() >= DUPLICATE_SHARE:
                question = " ".join(draw.choices(words, k=12))
                answer = " ".join(draw.choices(words, k=draw.randint(*ANSWER_WORDS)))
                messages = [
                    {"role": "user", "content": f"{question}?"},
                    {"role": "assistant", "content": f"{answer}."},
                ]
                line = json.dumps({"messages": messages}) + "\n"
            written += file.write(line)


def prepare(path: Path, base: str) -> Prepared:
    """What `trainer run` does with `path` before it loads a model, in this process."""
    import torch
    import yaml
    from rich.console import Console

    from adapters.base.host_memory import save_host_memory
    from adapters.base.loading import load_tokenizer
    from adapters.base.reference import resolve_base
    from trainer.config.loading import load_config
    from trainer.data.labels import ConversationLabeller
    from trainer.data.preparation import DataSource, prepare_data
    from trainer.data.report import data_report, summarize_lengths
    from trainer.loop.peak_memory import memory_bytes, peak_bytes
    from trainer.quiet import quiet_libraries

    save_host_memory()
    quiet_libraries()
    config = path.with_suffix(".yaml")
    document = {"name": "big", "base": base, "data": {"train": path.name, "streaming": True}}
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    loaded = load_config(config)
    tokenizer, template = load_tokenizer(resolve_base(base))
    labeller = ConversationLabeller(tokenizer, template.text)
    cpu = torch.device("cpu")
    start_bytes, began = memory_bytes(cpu), time.monotonic()
    data = prepare_data(DataSource(loaded.config.data, loaded.folder, loaded.config.seed), labeller)
    Console(stderr=True).print(data_report(data, labeller))
    return Prepared(
        file_bytes=path.stat().st_size,
        num_read=data.num_rows_read,
        num_train=len(data.train),
        num_tokens=summarize_lengths(data.train).num_tokens,
        seconds=time.monotonic() - began,
        start_bytes=start_bytes,
        peak_bytes=peak_bytes(cpu),
    )


def measure(arguments: argparse.Namespace) -> Report:
    """Prepare a file of each size in a process of its own and print the table."""
    results = []
    for gigabytes in (0.002, 0.004) if arguments.quick else arguments.gigabytes:
        with tempfile.TemporaryDirectory(prefix="streaming-") as name:
            path = Path(name) / "train.jsonl"
            write_chats(path, round(gigabytes * 1e9), arguments.seed)
            command = [sys.executable, "-m", "loadtests.streaming_data", "--child", str(path)]
            done = subprocess.run(
                [*command, "--base", arguments.base], check=True, stdout=subprocess.PIPE, text=True
            )
            results.append(Prepared(**json.loads(done.stdout.splitlines()[-1])))
    print(f"\n{format_results(results)}")
    return {"files": [asdict(result) for result in results]}


def format_results(results: Sequence[Prepared]) -> str:
    """A Markdown table; memory in MB = 1e6 bytes."""
    lines = [
        "| file | rows | tokens kept | rows/s | MB/s | MB before | MB at most | grown by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.file_bytes / 1e9:.3g} GB | {r.num_read:,} | {r.num_tokens / 1e6:.1f} M | "
        f"{r.num_read / r.seconds:.0f} | {r.file_bytes / r.seconds / 1e6:.2f} | "
        f"{r.start_bytes / 1e6:.0f} | {r.peak_bytes / 1e6:.0f} | {r.grown_bytes / 1e6:.0f} MB |"
        for r in results
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when a file couldn't be prepared."""
    parser = make_parser("streaming_data", __doc__ or "", quick="files of 2 and 4 MB")
    add_base(parser)
    parser.add_argument(
        "--gigabytes", type=float, nargs="+", default=[0.25, 1.0], metavar="SIZE",
        help="of the generated files, 1e9 bytes each (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child is not None:
        print(json.dumps(asdict(prepare(arguments.child, arguments.base))))
        return 0
    return run_command("streaming_data", argv, arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
