"""vLLM's runtime-LoRA endpoints, with its texts and statuses.

Source: vllm/entrypoints/openai/models/serving.py. The error object is the OpenAI API's.
"""

import asyncio
import logging

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from adapters.errors import AdapterExistsError, AdapterNotFoundError
from server.api.access.route_table import LOAD_LORA, UNLOAD_LORA
from server.api.errors import NothingToLoadError, without_paths
from server.api.requests.body import read_body
from server.api.requests.chat_and_completion import LoadAdapterBody, UnloadAdapterBody
from server.api.settings import ApiSettings
from server.core.errors import AdapterUnavailableError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog

logger = logging.getLogger(__name__)


def adapter_routes(info: ModelInfo, catalog: AdapterCatalog, settings: ApiSettings) -> APIRouter:
    """The routes that change `catalog`. One change at a time: each reads and writes the store."""
    router = APIRouter()
    changing = asyncio.Lock()

    @LOAD_LORA.on(router)
    async def load_adapter(request: Request) -> Response:
        body = await read_body(request, LoadAdapterBody, settings.max_body_bytes)
        name, path = body.lora_name, body.lora_path
        if not name or not path:
            raise RequestError(
                "Both 'lora_name' and 'lora_path' must be provided.",
                "lora_path" if name else "lora_name",
            )
        if info.is_base(name):
            raise RequestError(
                f"The lora adapter name '{name}' is the base model's; choose another.", "lora_name"
            )
        try:
            async with changing:
                await asyncio.to_thread(catalog.load, name, path, replace=body.load_inplace)
        except AdapterExistsError as error:
            raise AdapterExistsError(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            ) from error
        except AdapterNotFoundError as error:
            logger.warning("lora %r can't be loaded from %r: %s", name, path, error)
            told = without_paths(str(error), said=path)
            raise NothingToLoadError(f"Loading lora {name} failed: {told}") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @UNLOAD_LORA.on(router)
    async def unload_adapter(request: Request) -> Response:
        body = await read_body(request, UnloadAdapterBody, settings.max_body_bytes)
        name = body.lora_name
        if not name:
            raise RequestError(
                "'lora_name' needs to be provided to unload a LoRA adapter.", "lora_name"
            )
        try:
            async with changing:
                await asyncio.to_thread(catalog.unload, name)
        except (AdapterNotFoundError, AdapterUnavailableError) as error:
            raise AdapterNotFoundError(f"The lora adapter '{name}' cannot be found.") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    return router
