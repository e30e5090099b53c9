"""New adapters out of old ones, by PEFT's own methods, without the base model.

PEFT merges on a model, so it gets one that has the adapters' modules and nothing behind them: each
base weight is a single number that is looked at as a matrix. Needs torch; nothing else of this
package does so when it is imported.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from adapters.errors import InspectionError, MergeError
from adapters.format.folder_files import CONFIG_FILE, WEIGHTS_FILE
from adapters.format.manifest import Manifest, MergeParent
from adapters.format.peft_folder import Factors, write_lora
from adapters.format.tensor_values import check_values
from adapters.merging.order import MergeSpec
from adapters.store.store import AdapterStore, StoredAdapter

_PREFIX = "base_model.model."
_NOTHING = 1e-10
_UNMERGEABLE = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")

Parts = dict[str, Factors]
"""The factors by module."""


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """A published merge. `error` is ||merged - exact sum|| over ||exact sum||, all modules."""

    stored: StoredAdapter
    error: float


@dataclass(frozen=True)
class _Parent:
    stored: StoredAdapter
    weight: float
    config: Any
    tensors: dict[str, torch.Tensor]

    def factors(self) -> Parts:
        """The parent's deltas as it is served alone, times its weight, in float64."""
        found: Parts = {}
        for module in _modules(self.tensors):
            a, b = _sides(self.tensors, module)
            # Its own scale, as PEFT computes it for this module.
            scale = _scale(self.config, module, a.shape[0])
            found[module] = (a.double() * (scale * self.weight), b.double())
        return found


def merge_adapters(store: AdapterStore, spec: MergeSpec) -> MergedAdapter:
    """Merge stored versions and publish the result as the current version of `spec.name`.

    Raises `MergeError` for what can't be merged, and what the store raises.
    """
    parents = [_load(store.get(term.ref), term.scale) for term in spec.terms]
    base = _common_base(parents)
    with tempfile.TemporaryDirectory(prefix="merge-") as scratch:
        folder = Path(scratch) / "merged"
        merged = _merge(parents, spec)
        first = parents[0].config
        rank = write_lora(
            folder,
            merged,
            base_reference=first.base_model_name_or_path,
            is_transposed=first.fan_in_fan_out,
        )
        error = _relative_error(merged, [parent.factors() for parent in parents])
        try:
            check_values(folder)
        except InspectionError as problem:
            raise MergeError(f"the merge came to nothing: {'; '.join(problem.problems)}") from None
        manifest = Manifest(
            name=spec.name,
            created_unix_seconds=spec.now_unix_seconds,
            method="lora",
            rank=rank,
            base=base.lineage.base if base else None,
            quantization=_agreed([p.stored.lineage.quantization for p in parents]),
            template=_agreed([p.stored.manifest.template for p in parents]),
            config={"merge": spec.as_data()},
            metrics={"merge_relative_error": error},
            parents=[
                MergeParent(label=p.stored.label, digest=p.stored.digest, weight=p.weight)
                for p in parents
            ],
        )
        return MergedAdapter(store.publish(spec.name, folder, manifest), error)


def _load(stored: StoredAdapter, weight: float) -> _Parent:
    from peft import LoraConfig

    document = json.loads((stored.path / CONFIG_FILE).read_text())
    problems = [key for key in _UNMERGEABLE if document.get(key)]
    if str(document.get("peft_type")).upper() != "LORA" or problems:
        what = f"{document.get('peft_type')} {' '.join(problems)}".strip()
        raise MergeError(
            f"{stored.label} is {what}: only plain LoRA (rsLoRA and rank patterns included) has "
            "factors that can be merged. A stack serves it with others unmerged"
        )
    tensors = load_file(stored.path / WEIGHTS_FILE)
    modules = _modules(tensors)
    config = LoraConfig(
        r=document["r"],
        lora_alpha=document["lora_alpha"],
        use_rslora=bool(document.get("use_rslora")),
        rank_pattern=document.get("rank_pattern") or {},
        alpha_pattern=document.get("alpha_pattern") or {},
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        # Exactly its own modules: the skeleton has those of the others too.
        target_modules=list(modules),
        base_model_name_or_path=document.get("base_model_name_or_path"),
    )
    return _Parent(stored, weight, config, tensors)


def _merge(parents: Sequence[_Parent], spec: MergeSpec) -> Parts:
    """Module -> factors of the merged adapter, float32, whose scale is 1."""
    from dataclasses import replace

    from peft import PeftModel, set_peft_model_state_dict

    names = [f"parent{index}" for index in range(len(parents))]
    # LoRA's own conventions don't matter to it: every module is a plain linear here.
    configs = [replace(parent.config, fan_in_fan_out=False) for parent in parents]
    model = PeftModel(_skeleton(parents), configs[0], adapter_name=names[0])
    for name, config in zip(names[1:], configs[1:], strict=True):
        model.add_adapter(name, config)
    for name, parent in zip(names, parents, strict=True):
        tensors = {key: tensor.float() for key, tensor in parent.tensors.items()}
        result = set_peft_model_state_dict(model, tensors, adapter_name=name)
        unexpected = [key for key in result.unexpected_keys if "lora_" in key]
        if unexpected:
            raise MergeError(f"{parent.stored.label}: PEFT doesn't know {unexpected[0]}")
    torch.manual_seed(spec.seed)
    try:
        with torch.no_grad():
            model.add_weighted_adapter(
                names,
                [parent.weight for parent in parents],
                "merged",
                combination_type=spec.method,
                svd_rank=spec.rank,
                svd_full_matrices=False,
                density=spec.density,
            )
    except (ValueError, RuntimeError, KeyError) as error:
        raise MergeError(f"PEFT can't merge these with {spec.method}: {error}") from error
    merged: Parts = {}
    for module in sorted({m for parent in parents for m in _modules(parent.tensors)}):
        layer = model.get_submodule(_PREFIX + module)
        a, b = layer.lora_A["merged"].weight, layer.lora_B["merged"].weight
        merged[module] = (a.detach().float().contiguous(), b.detach().float().contiguous())
    return merged


def _skeleton(parents: Sequence[_Parent]) -> nn.Module:
    """A model of all parents' modules. Raises `MergeError` where their shapes differ."""
    root = nn.Module()
    shapes: dict[str, tuple[int, int, str]] = {}
    for parent in parents:
        for module in _modules(parent.tensors):
            a, b = _sides(parent.tensors, module)
            shape = (a.shape[1], b.shape[0], parent.stored.label)
            known = shapes.setdefault(module, shape)
            if known[:2] != shape[:2]:
                raise MergeError(
                    f"{module} has {known[0]} inputs and {known[1]} outputs in {known[2]}, and "
                    f"{shape[0]} and {shape[1]} in {shape[2]}: they are for different bases"
                )
    for module, (num_in, num_out, _) in shapes.items():
        node = root
        *path, last = module.split(".")
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        linear = nn.Linear(1, 1, bias=False)
        linear.in_features, linear.out_features = num_in, num_out
        linear.weight = nn.Parameter(torch.zeros(1, 1).expand(num_out, num_in), requires_grad=False)
        node.add_module(last, linear)
    return root


def _relative_error(merged: Parts, parents: Sequence[Parts]) -> float:
    """||merged - exact|| / ||exact||, Frobenius, from the factors alone.

    Raises `MergeError` where the adapters cancel each other out.
    """
    difference = exact = parts = 0.0
    for module, (a, b) in merged.items():
        there = [factors[module] for factors in parents if module in factors]
        exact_a = torch.cat([f[0] for f in there])
        exact_b = torch.cat([f[1] for f in there], dim=1)
        exact += _squared_norm(exact_a, exact_b)
        parts += sum(_squared_norm(*factors) for factors in there)
        difference += _squared_norm(
            torch.cat([exact_a, a.double()]), torch.cat([exact_b, -b.double()], dim=1)
        )
    if exact <= _NOTHING * parts:
        raise MergeError("the merge came to nothing: the adapters cancel each other out")
    return float((difference / exact) ** 0.5)


def _squared_norm(a: torch.Tensor, b: torch.Tensor) -> float:
    """||B A||_F^2 for A [r, in] and B [out, r], through the R of either's QR."""
    r_a = torch.linalg.qr(a.T, mode="r").R
    r_b = torch.linalg.qr(b, mode="r").R
    return float((r_b @ r_a.T).square().sum())


def _common_base(parents: Sequence[_Parent]) -> StoredAdapter | None:
    known = [p.stored for p in parents if p.stored.lineage.base is not None]
    digests = {s.lineage.base.digest for s in known if s.lineage.base is not None}
    if len(digests) > 1:
        listed = ", ".join(f"{s.label} on {s.lineage.base}" for s in known)
        raise MergeError(f"these were trained on different base models: {listed}")
    return known[0] if known else None


def _agreed(records: Sequence[Any]) -> Any:
    """What all that say something say; None where they differ."""
    known = [record for record in records if record is not None]
    return known[0] if known and all(record == known[0] for record in known) else None


def _modules(tensors: dict[str, torch.Tensor]) -> tuple[str, ...]:
    ends = ".lora_A.weight"
    names = [key.removeprefix(_PREFIX) for key in tensors if key.endswith(ends)]
    return tuple(sorted(name.removesuffix(ends) for name in names))


def _sides(tensors: dict[str, torch.Tensor], module: str) -> tuple[torch.Tensor, torch.Tensor]:
    prefix = f"{_PREFIX}{module}.lora_"
    return tensors[f"{prefix}A.weight"], tensors[f"{prefix}B.weight"]


def _scale(config: Any, module: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    pattern = config.alpha_pattern
    alpha = pattern.get(get_pattern_key(list(pattern), module), config.lora_alpha)
    return float(alpha) / (rank**0.5 if config.use_rslora else rank)
