"""`python -m loadtests.kinds_parity`: every kind of adapter on one base against PEFT's own model.

One row a kind: what of `trainer` makes it, the pages it was loaded into, and the largest difference
of any next-token logit from PEFT alone, in one batch with all the others, and stacked with half of
a LoRA (PEFT with that LoRA's delta added by hooks). Compute is float32 on both sides, over the same
base weights. Takes about 10 minutes on 2 cores.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.base.loading import load_base
from adapters.base.quantization import NF4
from adapters.base.training_guard import prepare_for_training
from loadtests.fixtures.kinds_engine import KindsEngine
from loadtests.fixtures.kinds_factory import INVOCATION, KINDS, make_kind, peft_logits
from loadtests.fixtures.kinds_trained import TRAINED_BY
from loadtests.harness.command import Report, add_base, make_parser, run_command
from server.core.settings import SchedulerSettings
from server.model.adapter_pages.host_adapter import PagedAdapterLoader
from server.model.assembly import ModelSettings, assemble_model
from server.model.step.runner import TorchRunner

_PROMPT = [20 + (13 * i) % 200 for i in range(12)] + [7, *INVOCATION, 31, 5, 77]
_STACKED, _STACK_SCALE = "lora", 0.5
_NUM_PAGES = 192
_WINDOW = 64


@dataclass(frozen=True)
class KindResult:
    """Largest differences of a logit; None where the kind stacked with itself would be meant."""

    kind: str
    pages: int
    alone: float
    mixed: float
    stacked: float | None
    same_tokens: bool


def measure(base: str, num_tokens: int, kinds: Sequence[str] = tuple(KINDS)) -> list[KindResult]:
    """These kinds over one base; "lora" must be the first. Raises what loading the base does."""
    assert kinds[0] == _STACKED, kinds
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        expected = {}
        for seed, kind in enumerate(kinds):
            peft_model = make_kind(kind, _fresh(base), root / kind, seed=seed)
            print(f"  PEFT: {kind}", flush=True)
            plain = _follow(peft_model, num_tokens)
            stacked = None
            if kind != _STACKED:
                handles = _add_delta(peft_model, root / _STACKED)
                stacked = _follow(peft_model, num_tokens)
                for handle in handles:
                    handle.remove()
            expected[kind] = plain, stacked
        return _compare(base, root, expected, num_tokens)


def _fresh(base: str) -> Any:
    loaded = load_base(base, NF4, dtype=torch.float32)
    prepare_for_training(loaded.model)
    return loaded.model


def _follow(model: Any, num_tokens: int) -> tuple[list[int], torch.Tensor]:
    tokens, logits = list(_PROMPT), []
    for _ in range(num_tokens):
        logits.append(peft_logits(model, tokens))
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(_PROMPT) :], torch.stack(logits)


def _add_delta(peft_model: Any, folder: Path) -> list[Any]:
    """Hooks that add the stacked LoRA's scaled delta to every linear it has."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model."
    scaling = 2.0 * _STACK_SCALE  # the factory's alpha is twice the rank
    handles = []
    for name, module in peft_model.named_modules():
        plain = name.removeprefix("base_model.").removeprefix("model.")
        for candidate in (plain, f"model.{plain}"):
            a = tensors.get(f"{prefix}{candidate}.lora_A.weight")
            if a is not None and not name.endswith("base_layer"):
                b = tensors[f"{prefix}{candidate}.lora_B.weight"]

                def add(_: Any, args: Any, out: Any, a: Any = a, b: Any = b) -> Any:
                    return out + scaling * (args[0] @ a.T @ b.T)

                handles.append(module.register_forward_hook(add))
    assert len(handles) == sum(key.endswith("lora_A.weight") for key in tensors), len(handles)
    return handles


def _compare(
    base: str,
    root: Path,
    expected: dict[str, tuple[Any, Any]],
    num_tokens: int,
) -> list[KindResult]:
    model = assemble_model(
        ModelSettings(
            base=base,
            quantization=NF4,
            device="cpu",
            dtype="float32",
            backend="reference",
            max_model_len=_WINDOW,
            block_size=16,
            kv_cache_gib=0.25,
            num_adapter_pages=_NUM_PAGES,
            max_batch_tokens=128,
            max_num_sequences=64,
        )
    )
    assert isinstance(model.runner, TorchRunner)
    assert isinstance(model.loader, PagedAdapterLoader)
    settings = SchedulerSettings(
        max_batch_tokens=128,
        max_model_len=_WINDOW,
        num_blocks=model.num_blocks,
        num_adapter_pages=_NUM_PAGES,
        enable_prefix_cache=False,
    )
    engine = KindsEngine(model.runner, model.loader, settings)
    pages = {kind: engine.load(kind, root / kind).num_pages for kind in expected}
    requests = [(_PROMPT, [(kind, 1.0)]) for kind in expected]
    follow = [expected[kind][0][0] for kind in expected]
    mixed = engine.generate(requests, num_tokens, follow=follow)
    results = []
    for kind, request, tokens, in_batch in zip(expected, requests, follow, mixed, strict=True):
        (plain_tokens, plain), stacked = expected[kind]
        (alone,) = engine.generate([request], num_tokens, follow=[tokens])
        own = [[int(v) for v in answer.logits.argmax(1)] for answer in (alone, in_batch)]
        difference = None
        if stacked is not None:
            stack = [(kind, 1.0), (_STACKED, _STACK_SCALE)]
            (answer,) = engine.generate([(_PROMPT, stack)], num_tokens, follow=[stacked[0]])
            difference = float((answer.logits - stacked[1]).abs().max())
        results.append(
            KindResult(
                kind,
                pages[kind],
                float((alone.logits - plain).abs().max()),
                float((in_batch.logits - plain).abs().max()),
                difference,
                all(tokens == plain_tokens for tokens in own),
            )
        )
    return results


def print_table(results: list[KindResult]) -> None:
    """The README's table."""
    print(
        "| kind | trained by `trainer` | loaded: pages | PEFT alone | in one mixed batch | "
        "in a stack | greedy tokens |"
    )
    print("|---|---|---|---|---|---|---|")
    for r in results:
        stacked = "-" if r.stacked is None else f"{r.stacked:.1e}"
        print(
            f"| {r.kind} | {TRAINED_BY[r.kind]} | {r.pages} | {r.alone:.1e} | {r.mixed:.1e} | "
            f"{stacked} | {'equal' if r.same_tokens else 'DIFFERENT'} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = make_parser("kinds_parity", __doc__ or "", quick="two tokens a kind in place of four")
    add_base(parser)
    return run_command("kinds_parity", argv, parser.parse_args(argv), _measure)


def _measure(arguments: argparse.Namespace) -> Report:
    results = measure(arguments.base, 2 if arguments.quick else 4)
    print_table(results)
    return {"base": arguments.base, "kinds": [asdict(result) for result in results]}


if __name__ == "__main__":
    raise SystemExit(main())
