"""Where an adapter comes from: the manifest that is published with it."""

import importlib.metadata
import time
from collections.abc import Mapping

from adapters.base.loading import LoadedBase
from adapters.format.manifest import (
    BaseLineage,
    DataRecord,
    Manifest,
    QuantizationRecord,
    TemplateRecord,
)
from trainer.config import TrainerConfig, defaults
from trainer.data.labels import ConversationLabeller
from trainer.data.preparation import PreparedData

LIBRARIES = (
    "switchyard",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
)


def library_versions() -> dict[str, str]:
    """Versions of what the weights depend on; a library that isn't installed is left out."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def build_manifest(
    config: TrainerConfig,
    base: LoadedBase,
    data: PreparedData,
    labeller: ConversationLabeller,
    metrics: Mapping[str, float],
    parent: str | None,
) -> Manifest:
    """Everything needed to know, and to repeat, what was done. The store fills in the digest."""
    return Manifest(
        name=config.name,
        created_unix_seconds=int(time.time()),
        method="lora",
        rank=config.rank,
        base=base_lineage(base),
        quantization=quantization_record(base),
        template=template_record(base, labeller),
        data=DataRecord(
            digest=data.digest,
            num_train_rows=len(data.train),
            num_eval_rows=len(data.held_out),
            counts={rule.value: count for rule, count in sorted(data.counts.items())},
        ),
        config=config.document(),
        seed=config.seed,
        library_versions=library_versions(),
        metrics=dict(metrics),
        parent=parent,
    )


def base_lineage(base: LoadedBase) -> BaseLineage:
    """Which base it is."""
    resolved = base.resolved
    return BaseLineage(
        reference=resolved.reference, revision=resolved.revision, digest=resolved.digest
    )


def quantization_record(base: LoadedBase) -> QuantizationRecord:
    """How its linears are held."""
    spec = base.quantization
    return QuantizationRecord(
        scheme=spec.scheme, block_size=spec.block_size, double_quant=spec.double_quant
    )


def template_record(base: LoadedBase, labeller: ConversationLabeller) -> TemplateRecord:
    """Its chat template, with what that makes of the golden messages."""
    golden = [dict(message) for message in defaults.GOLDEN_MESSAGES]
    return TemplateRecord(
        text=base.template.text,
        hash=base.template.hash,
        golden_messages=golden,
        golden_token_ids=list(labeller.message_ids(golden)) if base.template.text else [],
    )
