"""Dense methods, folded at import and served: as near to PEFT's own model as the fold says."""

from pathlib import Path

import pytest
import torch

from adapters.base.quantization import NF4
from adapters.folding.fold import FoldedAdapter, fold_adapter
from adapters.folding.order import FoldSpec
from adapters.store.store import AdapterStore
from loadtests.fixtures.kinds_engine import KindsEngine
from server.core.settings import SchedulerSettings
from server.model.adapter_pages.host_adapter import PagedAdapterLoader
from server.model.assembly import ModelSettings, assemble_model
from server.model.step.runner import TorchRunner
from tests.unit.adapters.base.tiny_base import tiny_folder
from tests.unit.server.model.dense_methods import OPTIONS, dense_logits, make_dense_adapter

PROMPT = [20 + (13 * i) % 200 for i in range(12)]
ROUNDING = 2e-4
QUICK = ("OFT", "LOHA", "LOKR", "VERA", "FOURIERFT")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def engine(base: Path) -> KindsEngine:
    model = assemble_model(
        ModelSettings(
            base=str(base),
            quantization=NF4,
            device="cpu",
            dtype="float32",
            backend="reference",
            max_model_len=32,
            block_size=4,
            kv_cache_gib=0.01,
            num_adapter_pages=64,
            max_batch_tokens=128,
            max_num_sequences=16,
        )
    )
    assert isinstance(model.runner, TorchRunner)
    assert isinstance(model.loader, PagedAdapterLoader)
    settings = SchedulerSettings(
        max_batch_tokens=128,
        max_num_sequences=16,
        max_model_len=32,
        block_size=4,
        num_blocks=model.num_blocks,
        num_adapter_pages=64,
    )
    return KindsEngine(model.runner, model.loader, settings)


def fold(method: str, base: Path, root: Path, **options: object) -> tuple[Path, FoldedAdapter]:
    source = make_dense_adapter(method, base, root / method)
    spec = FoldSpec(method.lower(), str(base), **options)  # type: ignore[arg-type]
    return source, fold_adapter(AdapterStore(root / "store"), source, spec)


def difference(
    engine: KindsEngine, base: Path, source: Path, folded: FoldedAdapter
) -> tuple[float, float]:
    """Of the served logits from PEFT's, and of PEFT's from the base's."""
    name = folded.stored.label
    engine.forget_cache()  # another test's version of this name may be in the bank
    engine.load(name, folded.stored.path)
    (answer,) = engine.generate([(PROMPT, [(name, 1.0)])], 1)
    wanted = dense_logits(base, source, PROMPT)
    effect = wanted - dense_logits(base, None, PROMPT)
    return float((answer.logits[0] - wanted).abs().max()), float(effect.abs().max())


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in OPTIONS]
)
def test_a_folded_method_is_served_as_peft_runs_it(
    engine: KindsEngine, base: Path, tmp_path: Path, method: str
) -> None:
    """64 inputs have at most 64 ranks, which is the default's limit: nothing need be lost."""
    source, folded = fold(method, base, tmp_path, max_error=0.011)
    gap, effect = difference(engine, base, source, folded)
    assert folded.worst_error <= 0.011
    assert effect > 10 * ROUNDING, "the adapter does something"
    assert gap <= ROUNDING + 3 * folded.worst_error * effect
    assert gap < effect / 10
    assert folded.logit_difference <= 0.1 * folded.logit_effect
    stored = folded.stored.manifest
    assert stored.config["fold"]["method"] == method
    assert stored.metrics["fold_relative_error_max"] == folded.worst_error
    assert stored.method == "lora"
    assert stored.base is not None


def test_a_lossy_fold_says_how_much_and_the_logits_agree(
    engine: KindsEngine, base: Path, tmp_path: Path
) -> None:
    source, folded = fold("OFT", base, tmp_path, rank=24, max_error=0.6)
    assert 0.1 < folded.mean_error <= folded.worst_error < 0.6
    assert folded.stored.rank == 24
    gap, effect = difference(engine, base, source, folded)
    assert ROUNDING < gap <= 3 * folded.worst_error * effect


def test_folded_methods_of_all_sorts_share_a_batch(
    engine: KindsEngine, base: Path, tmp_path: Path
) -> None:
    names, wanted = [], []
    for method in ("OFT", "LOHA", "VERA"):
        source, folded = fold(method, base, tmp_path, max_error=0.011)
        names.append(folded.stored.label)
        engine.load(names[-1], folded.stored.path)
        wanted.append(dense_logits(base, source, PROMPT))
    engine.forget_cache()
    answers = engine.generate([(PROMPT, [(name, 1.0)]) for name in names], 1)
    plain = dense_logits(base, None, PROMPT)
    for answer, logits in zip(answers, wanted, strict=True):
        tolerance = ROUNDING + 0.033 * float((logits - plain).abs().max())
        torch.testing.assert_close(answer.logits[0], logits, rtol=0, atol=tolerance)
