"""`/v1/adapters`: what the store has, where it is now, and what an operator does to it."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.access.route_table import (
    ADAPTER,
    ADAPTERS,
    ALIAS,
    MERGE,
    PIN,
    PREFETCH,
    REMOVE,
    UNPIN,
)
from server.api.errors import without_paths
from server.api.generation.resolution import check_scales
from server.api.requests.administration import AliasBody, MergeBody
from server.api.requests.body import read_body
from server.api.settings import ApiSettings
from server.core.administration import (
    AdapterAdministration,
    AdapterReport,
    MergeOrder,
    Tier,
    VersionReport,
)
from server.core.errors import RequestError
from server.core.model_info import ModelInfo

_PIN_TIERS = {"host": Tier.HOST, "device": Tier.DEVICE}


def administration_routes(
    administration: AdapterAdministration, info: ModelInfo, settings: ApiSettings
) -> APIRouter:
    """The routes over `administration`. Every `{name}` may carry a version: `sql@3`."""
    router = APIRouter()

    @ADAPTERS.on(router)
    async def list_adapters() -> Response:
        reports = await administration.reports()
        return JSONResponse({"object": "list", "data": [_adapter(report) for report in reports]})

    @ADAPTER.on(router)
    async def show_adapter(name: str) -> Response:
        detail = await administration.describe(name)
        return JSONResponse(
            {
                **_adapter(detail.report),
                "version": detail.version,
                "matched_modules": list(detail.matched_modules),
                "unmatched_modules": list(detail.unmatched_modules),
                "problems": [without_paths(problem) for problem in detail.problems],
                "manifest": dict(detail.manifest),
            }
        )

    @MERGE.on(router)
    async def merge(request: Request) -> Response:
        body = await read_body(request, MergeBody, settings.max_body_bytes)
        if info.is_base(body.name):
            raise RequestError(f"'{body.name}' is the base model's name; choose another", "name")
        parents = tuple((parent.name, parent.scale) for parent in body.adapters)
        check_scales(parents, "adapters")
        order = MergeOrder(body.name, parents, body.method, body.rank, body.density, body.seed)
        result = await administration.merge(order)
        return JSONResponse(
            {
                "object": "adapter.merge",
                "adapter": result.label,
                "digest": result.digest,
                "rank": result.rank,
                "method": body.method,
                "relative_error": result.error,
                "parents": [
                    {"adapter": label, "digest": digest, "weight": weight}
                    for label, digest, weight in result.parents
                ],
            }
        )

    @PREFETCH.on(router)
    async def prefetch(name: str) -> Response:
        return _residency(name, await administration.prefetch(name))

    @PIN.on(router)
    async def pin(name: str, request: Request) -> Response:
        tier = _PIN_TIERS.get(request.query_params.get("tier", "host"))
        if tier is None:
            raise RequestError(
                f"tier is {request.query_params['tier'][:80]!r}; a pin is in host or in device",
                "tier",
            )
        return _residency(name, await administration.pin(name, tier))

    @UNPIN.on(router)
    async def unpin(name: str) -> Response:
        return _residency(name, await administration.unpin(name))

    @ALIAS.on(router)
    async def set_alias(name: str, request: Request) -> Response:
        body = await read_body(request, AliasBody, settings.max_body_bytes)
        return JSONResponse(_adapter(await administration.set_alias(name, body.as_weights())))

    @REMOVE.on(router)
    async def remove(name: str) -> Response:
        await administration.remove(name)
        return JSONResponse({"id": name, "object": "adapter", "deleted": True})

    return router


def _adapter(report: AdapterReport) -> dict[str, Any]:
    return {
        "id": report.name,
        "object": "adapter",
        "current": report.current,
        "loaded": report.is_loaded,
        "problem": report.problem,
        "remedy": report.remedy,
        "versions": [_version(version) for version in report.versions],
    }


def _version(report: VersionReport) -> dict[str, Any]:
    return {
        "version": report.version,
        "weight": report.weight,
        "digest": report.digest,
        "method": report.method,
        "rank": report.rank,
        "created": report.created,
        "root": report.root,
        "bytes": {"disk": report.size_bytes, "host": report.host_bytes},
        "residency": report.tier.value,
        "pinned": report.pinned_in is not None,
        "pinned_in": report.pinned_in.value if report.pinned_in is not None else None,
        "mismatches": list(report.mismatches),
        "chat_template": {
            "used": "own" if report.has_own_template else "base",
            "note": report.template_note,
        },
    }


def _residency(name: str, report: VersionReport) -> Response:
    return JSONResponse({"id": name, "object": "adapter.version", **_version(report)})
