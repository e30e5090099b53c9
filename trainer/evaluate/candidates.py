"""What `eval`, `compare` and `export` are about: adapters by name or folder, and their base."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from adapters.base.quantization import NF4, QuantizationSpec
from adapters.format.folder_files import CONFIG_FILE, MANIFEST_FILE
from adapters.format.manifest import Manifest, read_manifest
from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from trainer.config import DataSection
from trainer.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter: `label` is its `name@version`, or `name` where it isn't out of a store.

    `config` is that of the run that made it, as JSON values; empty where nobody knows.
    """

    label: str
    name: str
    folder: Path
    manifest: Manifest | None
    base: str
    config: Mapping[str, Any]

    @property
    def served_name(self) -> str:
        """What a server knows it as. An alias may point at another version by now."""
        return self.label

    def data_section(self) -> DataSection | None:
        """How the rows of its run were read and cleaned; None where nobody knows."""
        try:
            return DataSection.model_validate(self.config["data"])
        except (KeyError, ValidationError):
            return None


def find_candidate(
    text: str, open_store: Callable[[], AdapterStore], base: str | None
) -> Candidate:
    """The adapter in the folder `text`, else the one of that name in the store.

    A run folder stands for the adapter in it. `base` wins over what the adapter says of its base.
    Raises `EvaluationError` for a folder without an adapter or base, `AdapterError` for a name
    that the store doesn't have.
    """
    stored = None
    folder = Path(text)
    if (folder / "adapter" / CONFIG_FILE).is_file():
        folder = folder / "adapter"
    if not (folder / CONFIG_FILE).is_file():
        if folder.is_dir() and folder.name != text:
            raise EvaluationError(f"{folder} has no {CONFIG_FILE}: not a PEFT adapter")
        # A bare name is one of the store, also where a folder of that name lies about.
        stored = open_store().get(parse_ref(text))
        folder = stored.path
    manifest_path = folder / MANIFEST_FILE
    manifest = read_manifest(manifest_path) if manifest_path.is_file() else None
    config = manifest.config if manifest is not None else _config_of_run(folder.resolve().parent)
    told = manifest.base.reference if manifest is not None and manifest.base is not None else None
    document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    reference = base or told or document.get("base_model_name_or_path")
    if not reference:
        raise EvaluationError(f"{folder} doesn't say which base it is for; give --base")
    known = manifest.name if manifest is not None else config.get("name")
    name = str(known or folder.resolve().name)
    label = name if stored is None else stored.label
    return Candidate(label, name, folder, manifest, str(reference), config)


def _config_of_run(folder: Path) -> dict[str, Any]:
    """The config that `trainer run` wrote into its run folder; empty where there is none."""
    try:
        document = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return document if isinstance(document, dict) else {}


def common_base(candidates: Sequence[Candidate]) -> str:
    """The one base of all. Raises `EvaluationError` when there is more than one."""
    bases = {candidate.base: candidate.label for candidate in candidates}
    if len(bases) > 1:
        told = "; ".join(f"{label} is for {base}" for base, label in bases.items())
        raise EvaluationError(f"only adapters of one base can be compared: {told}")
    return candidates[0].base


def common_reading(
    candidates: Sequence[Candidate], data: Path, tell: Callable[[str], None]
) -> DataSection:
    """How the rows of the file `data` are read and cleaned for all: as for the first whose run is
    known, whose system message and columns they then have. `tell` hears where others differ."""
    known = [(c.label, section) for c in candidates if (section := c.data_section()) is not None]
    if not known:
        return DataSection(train=str(data))
    first, section = known[0]
    others = [label for label, other in known if _reading(other) != _reading(section)]
    if others:
        tell(f"rows are read and cleaned as for {first}, not as for {', '.join(others)}")
    return section


def _reading(section: DataSection) -> Any:
    return section.columns, section.format, section.cleaning, section.system


def quantization_of(candidate: Candidate) -> QuantizationSpec:
    """How the base was held when the adapter was trained; NF4, as served, where nobody knows."""
    record = candidate.manifest.quantization if candidate.manifest is not None else None
    if record is None or record.scheme == "none":
        return NF4
    return QuantizationSpec(scheme=record.scheme, double_quant=record.double_quant)
