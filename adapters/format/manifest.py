"""`manifest.json`: where an adapter version comes from and what it is relative to."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from adapters.errors import DocumentError, ManifestError
from adapters.format.bounded_json import read_json_object

SCHEMA_VERSION = 2
_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
_DIGEST = r"sha256:[0-9a-f]{64}"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaseLineage(_Record):
    """The base model: its reference, hub commit if it has one, and the digest of its weights."""

    reference: str
    revision: str | None = None
    digest: str


class QuantizationRecord(_Record):
    """The format of the base's linear weights while the adapter was trained."""

    scheme: Literal["nf4", "fp4", "none"]
    block_size: int = Field(ge=1)
    double_quant: bool


class TemplateRecord(_Record):
    """The chat template, its `sha256:` hash, and what it makes of a few messages.

    Rendering `golden_messages` must give `golden_token_ids` wherever the adapter is served. `hash`
    is what the file claims; who compares takes `text_hash`.
    """

    text: str
    hash: str
    golden_messages: list[dict[str, str]]
    golden_token_ids: list[NonNegativeInt]

    @property
    def text_hash(self) -> str:
        """The hash that the text really has."""
        return template_hash(self.text)


class DataRecord(_Record):
    """The training data: its digest, sizes, and how many rows each cleaning rule met."""

    digest: str
    num_train_rows: NonNegativeInt
    num_eval_rows: NonNegativeInt
    counts: dict[str, int] = Field(default_factory=dict)


class MergeParent(_Record):
    """One of the versions that a merge was made of: `sql@3`, its digest and its weight."""

    label: str
    digest: str
    weight: float


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a version is relative to: all that decides whether a base can serve it.

    `template_hash` is `template_text`'s, whatever a manifest claims.
    """

    base: BaseLineage | None = None
    quantization: QuantizationRecord | None = None
    template_hash: str | None = None
    template_text: str | None = None

    @staticmethod
    def of(
        base: BaseLineage | None, quantization: QuantizationRecord | None, template: str | None
    ) -> "Lineage":
        """With the hash of the text; an empty template is none."""
        text = template or None
        return Lineage(base, quantization, template_hash(text) if text else None, text)


class Manifest(_Record):
    """All that is known about one adapter version; None or empty is what an import can't know.

    `method` is PEFT's type in lower case, `rank` the largest rank of a module, `config` the full
    trainer config, `parent` the version that the name pointed at before (`polite@2`), `parents`
    what a merge was made of, `source` the folder an import came from. The store fills in `digest`
    (`adapters.format.digest`), and `files` and `seal` (`adapters.seal`), on publishing; manifests
    of schema 1 have neither of the last two.
    """

    schema_version: Literal[1, 2] = 1
    name: str
    created_unix_seconds: NonNegativeInt
    method: str
    rank: NonNegativeInt
    base: BaseLineage | None = None
    quantization: QuantizationRecord | None = None
    template: TemplateRecord | None = None
    data: DataRecord | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    library_versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    parent: str | None = None
    parents: list[MergeParent] = Field(default_factory=list)
    digest: str = Field(default="", pattern=rf"^({_DIGEST})?$")
    source: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    seal: str = Field(default="", pattern=rf"^({_DIGEST})?$")

    @property
    def lineage(self) -> Lineage:
        """What the version is relative to."""
        text = self.template.text if self.template is not None else None
        return Lineage.of(self.base, self.quantization, text)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return self.model_dump_json(indent=2) + "\n"


def template_hash(text: str) -> str:
    """`sha256:` of a chat template's UTF-8 bytes."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read a `manifest.json`. Raises `ManifestError` when it is missing, wrong or too new."""
    document = read_manifest_document(path)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'it'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)[:5]
        )
        raise ManifestError(f"{path} isn't a manifest: {faults}") from error


def read_manifest_document(path: Path) -> dict[str, Any]:
    """The JSON of a manifest that this program knows the schema of. Raises `ManifestError`."""
    try:
        document = read_json_object(path, max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise ManifestError(str(error)) from error
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema_version {version}, and this program knows up to {SCHEMA_VERSION}: "
            "update Switchyard"
        )
    return document
