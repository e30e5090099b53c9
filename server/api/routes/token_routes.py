"""`/tokenize` and `/detokenize`, in vLLM's shape."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.access.route_table import DETOKENIZE, TOKENIZE
from server.api.generation.conversation import Conversations
from server.api.generation.prompts import PromptTokens, TokenIds
from server.api.generation.resolution import resolve_model
from server.api.requests.body import read_body
from server.api.requests.disconnect import while_connected
from server.api.requests.tokens import DetokenizeBody, TokenizeBody
from server.api.requests.tools import tool_use
from server.api.settings import ApiSettings
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatTokenizer
from server.core.stack import BASE_STACK, AdapterStack


class _TokenRoutes:
    """Answers both routes. The model's name matters for its adapter's chat template alone."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        catalog: AdapterCatalog,
        info: ModelInfo,
        settings: ApiSettings,
        prompts: PromptTokens,
        count: Callable[[int], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._catalog = catalog
        self._info = info
        self._settings = settings
        self._prompts = prompts
        self._count = count
        self._conversations = Conversations(tokenizer, settings.tool_format)

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody, self._settings.max_body_bytes)
        tokens = await while_connected(self._tokens(body, self._stack(body.model)), request)
        self._count(len(tokens))
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": self._info.max_model_len,
            "tokens": list(tokens),
            "token_strs": None,
        }
        if body.return_token_strs:
            answer["token_strs"] = [self._tokenizer.token_name(token) for token in tokens]
        return JSONResponse(answer)

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody, self._settings.max_body_bytes)
        self._stack(body.model)
        self._prompts.check_count(len(body.tokens), "tokens")
        self._count(len(body.tokens))
        tokens = tuple(body.tokens)
        self._info.check_token_ids(tokens, "tokens")
        text = self._tokenizer.decode(tokens, skips_special_tokens=False)
        return JSONResponse({"prompt": text})

    def _stack(self, model: str | None) -> AdapterStack:
        if model is None:
            return BASE_STACK
        return resolve_model(model, None, info=self._info, catalog=self._catalog).stack

    async def _tokens(self, body: TokenizeBody, stack: AdapterStack) -> TokenIds:
        if body.prompt is not None:
            adds = body.add_special_tokens is not False
            return await self._prompts.encoded(body.prompt, adds_special_tokens=adds)
        functions = [tool.function for tool in body.tools]
        use = tool_use(functions, None, is_parallel=True)
        conversation = self._conversations.build(body, stack, use, None)
        return await self._prompts.of_chat(conversation.prompt)


def token_routes(
    tokenizer: ChatTokenizer,
    catalog: AdapterCatalog,
    info: ModelInfo,
    settings: ApiSettings,
    prompts: PromptTokens,
    count: Callable[[int], None],
) -> APIRouter:
    """Both routes over one tokenizer; `count` charges the caller for tokens, or refuses."""
    router = APIRouter()
    routes = _TokenRoutes(tokenizer, catalog, info, settings, prompts, count)
    TOKENIZE.on(router)(routes.tokenize)
    DETOKENIZE.on(router)(routes.detokenize)
    return router
