"""Will a server serve what this config makes? Asked before anything is trained."""

from collections.abc import Mapping

from adapters.base.loading import LoadedBase
from adapters.base.quantization import NF4
from adapters.errors import AdapterNotFoundError
from adapters.format.adapter_config import parse_adapter_config
from adapters.format.manifest import Manifest
from adapters.format.peft_methods import LORA
from adapters.rank_pages import pages_for_rank
from adapters.store.store import AdapterStore
from trainer.config import TrainerConfig
from trainer.data.labels import ConversationLabeller
from trainer.methods.targets import BaseGeometry, Shape
from trainer.publish.lineage import base_lineage, quantization_record, template_record
from trainer.serving.serving_limits import ServingLimits


def serving_problems(
    config: TrainerConfig,
    modules: Mapping[str, Shape],
    geometry: BaseGeometry,
    limits: ServingLimits,
    *,
    num_steps: int,
) -> tuple[str, ...]:
    """Every reason for which the adapter of `config` would be refused; empty when none is known.

    `modules` are those that the method matches.
    """
    trained_by = config.training_method
    if not trained_by.publishes_adapter:
        return (
            f"method {config.method} makes another base, not an adapter: no server loads it beside "
            "others",
        )
    problems: list[str] = []
    rank = trained_by.published_rank(config, modules)
    if rank > limits.max_rank:
        problems.append(
            f"the published adapter has rank {rank}, and a server takes up to "
            f"{limits.max_rank}: lower lora.r, or start it with --max-lora-rank {rank}"
        )
    if pages_for_rank(rank) > limits.pages:
        problems.append(
            f"the published adapter fills {pages_for_rank(rank)} pages, and a server has "
            f"{limits.pages}: start it with --adapter-bank-pages {pages_for_rank(rank)}"
        )
    method = LORA.lower()  # what is published without a config that is known before
    peft_config = trained_by.published_config(config, modules, geometry, num_steps=num_steps)
    if peft_config is not None:
        document = peft_config.to_dict() | _placeholders(geometry)
        if isinstance(document.get("init_lora_weights"), str):
            document["init_lora_weights"] = True
        document = {k: sorted(v) if isinstance(v, set) else v for k, v in document.items()}
        document["peft_type"] = str(getattr(peft_config.peft_type, "value", peft_config.peft_type))
        method = document["peft_type"].lower()
        parse_adapter_config(document, problems)
    if method not in limits.methods:
        problems.append(
            f"method: {config.method} is published as {method}, and {limits.server} serves "
            f"{', '.join(limits.methods)}"
        )
    if limits.base_id == config.name:
        problems.append(f"name: {config.name} is what that server calls its base; choose another")
    return tuple(problems)


def base_problems(
    base: LoadedBase, labeller: ConversationLabeller, longest_tokens: int, limits: ServingLimits
) -> tuple[str, ...]:
    """Why a running server, by its own words, would refuse what is trained on this base, or
    couldn't be asked what was trained: rows of `longest_tokens`."""
    problems: list[str] = []
    if limits.served is not None:
        made = Manifest(
            name="adapter",
            created_unix_seconds=0,
            method="lora",
            rank=0,
            base=base_lineage(base),
            quantization=quantization_record(base),
            template=template_record(base, labeller),
        )
        told = [*limits.served.mismatches(made.lineage), limits.served.other_template(made.lineage)]
        problems += [f"on {limits.server}: {text}" for text in told if text is not None]
    if limits.max_model_len is not None and longest_tokens > limits.max_model_len:
        problems.append(
            f"the longest row has {longest_tokens} tokens, and {limits.server} takes "
            f"{limits.max_model_len}: start it with a larger --max-model-len, or lower "
            "data.max_length"
        )
    return tuple(problems)


def format_note(base: LoadedBase, limits: ServingLimits) -> str | None:
    """Where no server was asked: that the base's weights are others than a server's by default."""
    spec = base.quantization
    if limits.server is not None or spec == NF4:
        return None
    double = " --no-double-quant" if spec.is_quantized and not spec.double_quant else ""
    return (
        "serving: a server holds its base in nf4 with double quantisation; start it with "
        f"--quantization {spec.scheme}{double}, or with --allow-mismatch"
    )


def name_note(name: str, store: AdapterStore | None, limits: ServingLimits) -> str:
    """What publishing will do to the name."""
    try:
        version = None if store is None else store.current_version(name)
    except AdapterNotFoundError:
        version = None
    if version is not None and store is not None:
        newest = max(store.versions(name))
        return f"{name} is there: version {newest + 1} comes after {name}@{version}"
    if limits.name_is_taken:
        return f"{name} is served by {limits.server} already, from another store than this"
    if limits.server is not None and limits.name_is_taken is None:
        return f"the key may not see whether {limits.server} serves a {name}"
    return f"{name} is free"


def _placeholders(geometry: BaseGeometry) -> dict[str, int]:
    """What PEFT fills in when it sees the base."""
    return {"token_dim": geometry.hidden, "num_layers": geometry.num_layers}
