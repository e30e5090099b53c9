"""`/tokenize` and `/detokenize`, in vLLM's shape."""

from collections.abc import Callable
from typing import Any, Self

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.generation.conversation import Conversations
from server.api.generation.prompts import PromptTokens, TokenIds
from server.api.generation.resolution import resolve_model
from server.api.requests import unsupported
from server.api.requests.body import read_body
from server.api.requests.chat_and_completion import ConversationBody
from server.api.requests.disconnect import while_connected
from server.api.requests.generation import TokenId
from server.api.requests.messages import MAX_MESSAGES, Message
from server.api.requests.model import NULL, RequestBody, refuse
from server.api.requests.tools import tool_use
from server.api.settings import ApiSettings
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatTokenizer
from server.core.stack import BASE_STACK, AdapterStack


class TokenizeBody(ConversationBody):
    """`POST /tokenize`: a prompt, or messages for the chat template."""

    not_honoured = unsupported.TOKENIZE
    rules = (
        {
            "anyOf": [
                {
                    "properties": {"prompt": {"type": "string"}, "messages": {"enum": [None, []]}},
                    "required": ["prompt"],
                },
                {
                    "properties": {"prompt": NULL, "messages": {"type": "array", "minItems": 1}},
                    "required": ["messages"],
                },
            ]
        },
    )

    model: str | None = Field(None, min_length=1, max_length=4096)
    prompt: str | None = None
    messages: list[Message] = Field([], max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise refuse("prompt", "give either prompt or messages")
        return self


class DetokenizeBody(RequestBody):
    """`POST /detokenize`."""

    model: str | None = Field(None, min_length=1, max_length=4096)
    tokens: list[TokenId]


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
        self._prompts.check_ids(tokens, "tokens")
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
    router.add_api_route("/tokenize", routes.tokenize, methods=["POST"], response_model=None)
    router.add_api_route("/detokenize", routes.detokenize, methods=["POST"], response_model=None)
    return router
