"""What `eval`, `compare` and `export` are about: adapters by name or folder, and their base."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.base.quantization import NF4, QuantizationSpec
from adapters.folder_files import MANIFEST_FILE
from adapters.manifest import Manifest, read_manifest
from adapters.names import parse_ref
from adapters.store import AdapterStore
from trainer.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter: `label` is its `name@version` or its folder's name."""

    label: str
    name: str
    folder: Path
    manifest: Manifest | None
    base: str


def find_candidate(text: str, store: AdapterStore, base: str | None) -> Candidate:
    """The adapter in the folder `text`, else the one of that name in the store.

    `base` wins over what the adapter says of its base. Raises `EvaluationError` for a folder
    without an adapter or base, `AdapterError` for a name that the store doesn't have.
    """
    folder = Path(text)
    if folder.is_dir():
        label = folder.resolve().name
        name = folder.resolve().parent.name if label == "adapter" else label
    else:
        stored = store.get(parse_ref(text))
        folder, label, name = stored.path, stored.label, stored.name
    config_path = folder / "adapter_config.json"
    if not config_path.is_file():
        raise EvaluationError(f"{folder} has no adapter_config.json: not a PEFT adapter")
    manifest_path = folder / MANIFEST_FILE
    manifest = read_manifest(manifest_path) if manifest_path.is_file() else None
    told = manifest.base.reference if manifest is not None and manifest.base is not None else None
    document = json.loads(config_path.read_text(encoding="utf-8"))
    reference = base or told or document.get("base_model_name_or_path")
    if not reference:
        raise EvaluationError(f"{folder} doesn't say which base it is for; give --base")
    return Candidate(label, name, folder, manifest, str(reference))


def common_base(candidates: Sequence[Candidate]) -> str:
    """The one base of all. Raises `EvaluationError` when there is more than one."""
    bases = {candidate.base: candidate.label for candidate in candidates}
    if len(bases) > 1:
        told = "; ".join(f"{label} is for {base}" for base, label in bases.items())
        raise EvaluationError(f"only adapters of one base can be compared: {told}")
    return candidates[0].base


def quantization_of(candidate: Candidate) -> QuantizationSpec:
    """How the base was held when the adapter was trained; NF4, as served, where nobody knows."""
    record = candidate.manifest.quantization if candidate.manifest is not None else None
    if record is None or record.scheme == "none":
        return NF4
    return QuantizationSpec(scheme=record.scheme, double_quant=record.double_quant)
