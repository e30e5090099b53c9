"""`GET /v1/limits`: what an adapter must be for this server to serve it.

`trainer check --server URL` asks here before anything is trained.
"""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from adapters.format.peft_methods import SERVED_METHODS
from adapters.rank_pages import PAGE_RANK
from server.api.access.route_table import LIMITS
from server.core.limits import AdapterLimits
from server.core.model_info import ModelInfo


def limit_routes(info: ModelInfo, limits: AdapterLimits) -> APIRouter:
    """The route; what it answers never changes while the server runs."""
    router = APIRouter()
    document = limits_document(info, limits)

    @LIMITS.on(router)
    async def show_limits() -> Response:
        return JSONResponse(document)

    return router


def limits_document(info: ModelInfo, limits: AdapterLimits) -> dict[str, Any]:
    """As JSON values. Of base, quantisation and template, null is what this server doesn't know."""
    served = limits.served
    return {
        "object": "limits",
        "base_id": info.base_id,
        "base": served.lineage.model_dump(),
        "quantization": None if served.quantization is None else served.quantization.model_dump(),
        "template_hash": served.template_hash,
        "allow_mismatch": limits.allow_mismatch,
        "max_model_len": info.max_model_len,
        "max_lora_rank": limits.max_lora_rank,
        "adapter_bank_pages": limits.adapter_bank_pages,
        "page_rank": PAGE_RANK,
        "methods": [method.lower() for method in SERVED_METHODS],
    }
