"""What a server takes of adapters: the defaults, or what a running one says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import ValidationError

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage, QuantizationRecord
from adapters.format.peft_methods import SERVED_METHODS
from adapters.serving_limits import ADAPTER_PAGES, MAX_LORA_RANK
from trainer.errors import ServingError

_TIMEOUT_SECONDS = 10.0
_METHODS = tuple(method.lower() for method in SERVED_METHODS)


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """`server` is the URL of one that runs; the last four are known only of such a one.

    `served` is None where adapters for another base are let in all the same. `name_is_taken` is
    about the adapter that was asked for; None where the key may not see it.
    """

    max_rank: int = MAX_LORA_RANK
    pages: int = ADAPTER_PAGES
    methods: tuple[str, ...] = _METHODS
    server: str | None = None
    base_id: str | None = None
    served: ServedBase | None = None
    max_model_len: int | None = None
    name_is_taken: bool | None = None


def limits_of(url: str, name: str, api_key: str | None = None) -> ServingLimits:
    """Ask the running server at `url`, also whether it serves an adapter called `name`.

    Raises `ServingError` when it doesn't answer as a Switchyard server does.
    """
    root = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=root, headers=headers, timeout=_TIMEOUT_SECONDS) as client:
            response = client.get("/v1/limits")
            response.raise_for_status()
            return _read(root, response.json(), _is_taken(client, name))
    except httpx.HTTPStatusError as error:
        raise ServingError(
            f"{root} doesn't tell its limits ({error.response.status_code}: "
            f"{error.response.text[:200]}); give a key with --api-key, or check without --server"
        ) from error
    except (httpx.HTTPError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ServingError(f"no Switchyard server answers at {root}: {error}") from error


def _is_taken(client: httpx.Client, name: str) -> bool | None:
    status = client.get(f"/v1/adapters/{name}").status_code
    known = {httpx.codes.OK: True, httpx.codes.NOT_FOUND: False, httpx.codes.FORBIDDEN: None}
    if status not in known:
        raise ValueError(f"GET /v1/adapters/{name} answers {status}")
    return known[httpx.codes(status)]


def _read(root: str, document: Mapping[str, Any], name_is_taken: bool | None) -> ServingLimits:
    record = document["quantization"]
    served = ServedBase(
        BaseLineage.model_validate(document["base"]),
        None if record is None else QuantizationRecord.model_validate(record),
        document["template_hash"],
    )
    return ServingLimits(
        max_rank=int(document["max_lora_rank"]),
        pages=int(document["adapter_bank_pages"]),
        methods=tuple(document["methods"]),
        server=root,
        base_id=str(document["base_id"]),
        served=None if document["allow_mismatch"] else served,
        max_model_len=int(document["max_model_len"]),
        name_is_taken=name_is_taken,
    )
