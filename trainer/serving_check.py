"""Will a server serve what this config makes? Asked before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from adapters.adapter_config import parse_adapter_config
from adapters.errors import AdapterNotFoundError
from adapters.rank_pages import pages_for_rank
from adapters.serving_limits import ADAPTER_PAGES, MAX_LORA_RANK
from adapters.store import AdapterStore
from trainer.config import TrainerConfig
from trainer.config.method import LORA_FAMILY
from trainer.errors import ServingError
from trainer.methods.peft_config import peft_config_for
from trainer.methods.starting_point import changes_the_base
from trainer.methods.targets import BaseGeometry, Shape, rank_of

_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What a server accepts; `base_id` and `names` are known only of one that runs."""

    max_rank: int = MAX_LORA_RANK
    pages: int = ADAPTER_PAGES
    base_id: str | None = None
    base_reference: str | None = None
    names: tuple[str, ...] = ()


def limits_of(url: str, api_key: str | None = None) -> ServingLimits:
    """Ask a running server. Its rank and page limits are the defaults: it doesn't tell them.

    Raises `ServingError` when it doesn't answer as a Switchyard server does.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(
            f"{url.rstrip('/').removesuffix('/v1')}/v1/models",
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
        )
        response.raise_for_status()
        models: list[Mapping[str, Any]] = response.json()["data"]
        base = next(model for model in models if model.get("parent") is None)
    except (httpx.HTTPError, ValueError, KeyError, StopIteration) as error:
        raise ServingError(f"no Switchyard server answers at {url}: {error}") from error
    names = tuple(str(model["id"]) for model in models if model.get("parent") is not None)
    root = base.get("root")
    return ServingLimits(
        base_id=str(base["id"]), base_reference=str(root) if root else None, names=names
    )


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
    if config.method == "full":
        return ("method full makes another base, not an adapter: no server loads it beside others",)
    problems: list[str] = []
    if config.method in LORA_FAMILY:
        rank = published_rank(config, modules)
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
    if config.method != "adalora":
        peft_config = peft_config_for(
            config, modules, geometry, num_steps=num_steps, is_transposed=False
        )
        document = peft_config.to_dict() | _placeholders(geometry)
        if isinstance(document.get("init_lora_weights"), str):
            document["init_lora_weights"] = True
        document = {k: sorted(v) if isinstance(v, set) else v for k, v in document.items()}
        document["peft_type"] = str(getattr(peft_config.peft_type, "value", peft_config.peft_type))
        parse_adapter_config(document, problems)
    if limits.base_id == config.name:
        problems.append(f"name: {config.name} is what that server calls its base; choose another")
    if limits.base_reference is not None and limits.base_reference != config.base:
        problems.append(
            f"base: that server holds {limits.base_reference}, and this adapter is for "
            f"{config.base}"
        )
    return tuple(problems)


def published_rank(config: TrainerConfig, modules: Mapping[str, Shape]) -> int:
    """The largest rank in the published folder: twice the trained one after PiSSA and OLoRA."""
    largest = max((rank_of(config, name) for name in modules), default=config.rank)
    return largest * (2 if changes_the_base(config.lora.init) else 1)


def name_note(config: TrainerConfig, store: AdapterStore | None, limits: ServingLimits) -> str:
    """What publishing will do to the name."""
    try:
        version = None if store is None else store.current_version(config.name)
    except AdapterNotFoundError:
        version = None
    if version is not None and store is not None:
        newest = max(store.versions(config.name))
        return f"{config.name} is there: version {newest + 1} comes after {config.name}@{version}"
    if config.name in limits.names:
        return f"{config.name} is served already, from another store than this one"
    return f"{config.name} is free"


def _placeholders(geometry: BaseGeometry) -> dict[str, int]:
    """What PEFT fills in when it sees the base."""
    return {"token_dim": geometry.hidden, "num_layers": geometry.num_layers}
