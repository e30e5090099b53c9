"""`python -m loadtests.bases`: tiny bases of every architecture against transformers and PEFT.

Each has random weights in float32 and a rank-4 LoRA on all linears, made and run by PEFT. Three
prompts, in chunks of seven tokens, with and without the adapter, run in one mixed batch; the logits
of ten greedy tokens each are held against `generate`. Takes about a minute on 2 cores.
"""

import argparse
import copy
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from adapters.base.modules import linear_modules
from loadtests.fixtures.base_configs import TinyBase, tiny_bases
from loadtests.fixtures.tiny_engine import TinyEngine, greedy
from loadtests.harness.command import MeasurementError, Report, make_parser, run_command
from server.core.errors import SwitchyardError

NUM_TOKENS = 10
TOLERANCE = 2e-3
"""Of a logit, over the spread of the logits: float32 in another order of summation."""

_PROMPTS = [[5 + (7 * i * n) % 240 for i in range(1, n + 1)] for n in (21, 9, 3)]
_NOT_ADAPTED = ("vision", "multi_modal", "visual", "router")
_PEFT_REFUSES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
"""Of these PEFT adapts no `out_proj`, whose weight a kernel of theirs reads."""


@dataclass(frozen=True)
class BaseResult:
    """`outcome` is exact, wrong, refused (by us, `detail` says why) or unmeasured (transformers or
    PEFT failed). `difference` is the largest of a logit, over the spread; `way` how rows ran."""

    name: str
    group: str
    outcome: str
    difference: float | None = None
    way: str = ""
    detail: str = ""


def measure(base: TinyBase) -> BaseResult:
    """Hold one base against transformers and PEFT, whatever they warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _measure_quietly(base)


def _measure_quietly(base: TinyBase) -> BaseResult:
    try:
        model = tiny_model(base)
        plain = [greedy(copy.deepcopy(model), prompt, NUM_TOKENS) for prompt in _PROMPTS]
    except Exception as error:  # noqa: BLE001 - whatever fails there, there is nothing to compare
        return BaseResult(base.name, base.group, "unmeasured", detail=_short(error))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            adapted_model = make_lora(copy.deepcopy(model), Path(scratch))
            adapted = [greedy(adapted_model, prompt, NUM_TOKENS) for prompt in _PROMPTS]
        except Exception as error:  # noqa: BLE001 - as above
            return BaseResult(base.name, base.group, "unmeasured", detail=_short(error))
        try:
            engine = TinyEngine(model)
            pages = engine.load(Path(scratch), 4)
        except SwitchyardError as error:
            return BaseResult(base.name, base.group, "refused", detail=_short(error))
    requests: list[Any] = [(prompt, []) for prompt in _PROMPTS]
    requests += [(prompt, [(pages, 1.0)]) for prompt in _PROMPTS]
    expected = [*plain, *adapted]
    follow = [tokens for tokens, _ in expected]
    _, logits = engine.generate(requests, NUM_TOKENS, follow=follow)
    differences = [
        float((got - want).abs().max() / want.std())
        for got, (_, want) in zip(logits, expected, strict=True)
    ]
    difference = max(differences)
    outcome = "exact" if difference <= TOLERANCE else "wrong"
    return BaseResult(base.name, base.group, outcome, difference, engine.generic.way)


def tiny_model(base: TinyBase) -> Any:
    """Random weights, the same each time, that don't repeat themselves when decoding."""
    torch.manual_seed(0)
    config = base.make()
    try:
        model = transformers.AutoModelForCausalLM.from_config(config)
    except ValueError:  # a multimodal model without a causal class of its own
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model = model.eval().float()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "A_log" not in name:
            parameter.data.normal_(0, 0.08)
        elif "sink" in name:
            parameter.data.normal_(0, 1.0)
    model.generation_config.eos_token_id = None
    return model


def make_lora(model: Any, folder: Path) -> Any:
    """A random LoRA with effect on all linears of the text part, saved into `folder`."""
    torch.manual_seed(1)
    kind = model.config.model_type
    skipped = (*_NOT_ADAPTED, "out_proj") if kind in _PEFT_REFUSES else _NOT_ADAPTED
    targets = [name for name in linear_modules(model) if not any(s in name for s in skipped)]
    is_transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM",
        fan_in_fan_out=is_transposed,
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    adapted.save_pretrained(folder)
    return adapted.eval()


def _short(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{text[:160]}..." if len(text) > 160 else text


def table(results: Sequence[BaseResult]) -> str:
    """Markdown, a row a base."""
    lines = ["| base | group | outcome | difference | rows run |", "|---|---|---|---|---|"]
    for result in results:
        difference = "" if result.difference is None else f"{result.difference:.0e}"
        lines.append(
            f"| {result.name} | {result.group} | {result.outcome} | {difference} | "
            f"{result.way or result.detail} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every base was measured and none is wrong."""
    parser = make_parser("bases", __doc__ or "", quick="one base of each group")
    parser.add_argument("--only", default="", metavar="TEXT", help="bases whose name has this")
    return run_command("bases", argv, parser.parse_args(argv), _measure)


def _measure(arguments: argparse.Namespace) -> Report:
    bases = [base for base in tiny_bases().values() if arguments.only in base.name]
    if arguments.quick:
        bases = list({base.group: base for base in bases}.values())
    transformers.logging.set_verbosity_error()
    results = []
    for base in bases:
        results.append(measure(base))
        print(f"  {results[-1].outcome}: {base.name}", flush=True)
    print(table(results))
    counts = {o: sum(r.outcome == o for r in results) for o in ("exact", "wrong", "refused")}
    print(f"{len(results)} bases: {counts}")
    if wrong := [result.name for result in results if result.outcome == "wrong"]:
        raise MeasurementError(f"not what transformers or PEFT gives: {', '.join(wrong)}")
    return {"results": [asdict(result) for result in results], **counts}


if __name__ == "__main__":
    raise SystemExit(main())
