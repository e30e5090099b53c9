"""Merges through PEFT, on folders that PEFT itself can load."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.errors import InvalidStackError, MergeError
from adapters.format.manifest import BaseLineage
from adapters.merging.merge import MergedAdapter, merge_adapters
from adapters.merging.order import MergeSpec
from adapters.stack import parse_stack
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import MODULES, lora_config, manifest, write_folder

BASE = BaseLineage(reference="tiny", digest="sha256:" + "1" * 64)
Q0, UP0 = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
SCALE = 2.0


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """`a` of rank 2 over all modules, `b` of rank 3 over the queries with rsLoRA."""
    store = AdapterStore(tmp_path / "store")
    generator = torch.Generator().manual_seed(0)
    for name, rank, modules in (
        ("a", 2, list(MODULES)),
        ("b", 3, [m for m in MODULES if "q" in m]),
    ):
        config = lora_config(r=rank, lora_alpha=SCALE * rank, target_modules=["q_proj", "up_proj"])
        if name == "b":
            config |= {"use_rslora": True, "lora_alpha": SCALE * rank**0.5}
        folder = write_folder(tmp_path / name, config=config)
        tensors = {}
        for module in modules:
            num_in, num_out = MODULES[module]
            prefix = f"base_model.model.{module}.lora_"
            tensors[f"{prefix}A.weight"] = torch.randn(rank, num_in, generator=generator)
            tensors[f"{prefix}B.weight"] = torch.randn(num_out, rank, generator=generator)
        save_file(tensors, folder / "adapter_model.safetensors")
        store.publish(name, folder, manifest(base=BASE))
    return store


def delta(store: AdapterStore, name: str, module: str) -> torch.Tensor:
    """What the stored adapter adds to a module's weight, by the definition of its config."""
    stored = store.get(parse_stack(name)[0].ref)
    tensors = load_file(stored.path / "adapter_model.safetensors")
    prefix = f"base_model.model.{module}.lora_"
    if f"{prefix}A.weight" not in tensors:
        return torch.zeros(1)
    scale = SCALE if name in ("a", "b") else 1.0
    return scale * tensors[f"{prefix}B.weight"].double() @ tensors[f"{prefix}A.weight"].double()


def merge(store: AdapterStore, terms: str, **options: object) -> MergedAdapter:
    return merge_adapters(store, MergeSpec("m", parse_stack(terms), **options))  # type: ignore[arg-type]


def test_cat_is_the_exact_sum_and_knows_its_parents(store: AdapterStore) -> None:
    merged = merge(store, "a:0.7+b:-0.3")
    assert merged.error < 1e-6
    assert merged.stored.label == "m@1"
    assert merged.stored.rank == 5
    for module in MODULES:
        wanted = 0.7 * delta(store, "a", module) - 0.3 * delta(store, "b", module)
        torch.testing.assert_close(delta(store, "m", module), wanted, rtol=1e-5, atol=1e-6)
    parents = merged.stored.manifest.parents
    assert [(p.label, p.weight) for p in parents] == [("a@1", 0.7), ("b@1", -0.3)]
    assert parents[0].digest == store.get(parse_stack("a")[0].ref).digest
    assert merged.stored.manifest.base == BASE
    assert merged.stored.manifest.config["merge"]["method"] == "cat"


def test_svd_keeps_the_best_of_a_rank_and_its_error_is_measured(store: AdapterStore) -> None:
    errors = [merge(store, "a+b", method="svd", rank=rank).error for rank in (5, 3, 1)]
    assert errors[0] < 1e-5
    assert 0.01 < errors[1] < errors[2] < 1
    difference = exact = 0.0
    for module in MODULES:
        wanted = delta(store, "a", module) + delta(store, "b", module)
        exact += float(wanted.square().sum())
        difference += float((delta(store, "m", module) - wanted).square().sum())
    assert errors[2] == pytest.approx((difference / exact) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear", "magnitude_prune"])
def test_the_pruning_methods_run_and_say_how_far_off_they_are(
    store: AdapterStore, method: str
) -> None:
    store.import_folder("a2", store.get(parse_stack("a")[0].ref).path)
    merged = merge(store, "a+a2:0.5", method=method, density=0.6, seed=3)
    assert merged.error > 0
    assert merged.stored.manifest.config["merge"]["density"] == 0.6
    again = merge(store, "a+a2:0.5", method=method, density=0.6, seed=3)
    assert again.stored.digest == merged.stored.digest, "the same seed gives the same bytes"


@pytest.mark.parametrize(
    ("terms", "options", "message"),
    [
        ("a", {}, "a merge takes two or more"),
        ("a+b", {"method": "sum"}, "unknown method 'sum'"),
        ("a+b", {"rank": 4}, "goes with dare_linear_svd"),
        ("a+b", {"density": 0.5}, "goes with dare_linear"),
        ("a+b:0", {}, "a weight is 0"),
        ("a+b", {"method": "linear"}, "PEFT can't merge these with linear"),
        ("a:1+copy:-1", {}, "the merge came to nothing"),
    ],
)
def test_what_cannot_be_merged(
    store: AdapterStore, terms: str, options: dict[str, object], message: str
) -> None:
    store.import_folder("copy", store.get(parse_stack("a")[0].ref).path)
    with pytest.raises(MergeError, match=message):
        merge(store, terms, **options)
    assert "m" not in store.names()


def test_other_kinds_and_other_bases_are_refused(store: AdapterStore, tmp_path: Path) -> None:
    dora = write_folder(tmp_path / "dora", config=lora_config(use_dora=True))
    store.publish("dora", dora, manifest())
    with pytest.raises(MergeError, match="dora@1 is LORA use_dora: only plain LoRA"):
        merge(store, "a+dora")
    other = BaseLineage(reference="other", digest="sha256:" + "2" * 64)
    store.publish("c", write_folder(tmp_path / "c"), manifest(base=other))
    with pytest.raises(MergeError, match="different base models"):
        merge(store, "a+c")
    with pytest.raises(InvalidStackError, match="twice"):
        merge(store, "a+a@1")
