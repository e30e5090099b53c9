"""`GET /v1/models`: the base and every adapter that a request can name."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.access.callers import CurrentCaller
from server.api.access.route_table import MODEL, MODELS
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, CatalogEntry


def model_routes(info: ModelInfo, catalog: AdapterCatalog, current: CurrentCaller) -> APIRouter:
    """The routes over what `catalog` has at the moment of each request, for whoever asks."""
    router = APIRouter()

    @MODELS.on(router)
    async def list_models() -> Response:
        cards = [_base_card(info)] if current.get().may_use_base else []
        cards += [_adapter_card(entry, info) for entry in catalog.list()]
        return JSONResponse({"object": "list", "data": cards})

    @MODEL.on(router)
    async def retrieve_model(model_id: str) -> Response:
        if info.is_base(model_id) and current.get().may_use_base:
            return JSONResponse(_base_card(info))
        return JSONResponse(_adapter_card(catalog.entry(model_id), info) | {"id": model_id})

    return router


def _base_card(info: ModelInfo) -> dict[str, Any]:
    return _card(info.base_id, info.root, None, info.created, info)


def _adapter_card(entry: CatalogEntry, info: ModelInfo) -> dict[str, Any]:
    return _card(entry.name, entry.root, info.base_id, entry.created, info)


def _card(
    model_id: str, root: str, parent: str | None, created: int, info: ModelInfo
) -> dict[str, Any]:
    return {
        "id": model_id,
        "object": "model",
        "created": created,
        "owned_by": "switchyard",
        "root": root,
        "parent": parent,
        "max_model_len": info.max_model_len,
    }
