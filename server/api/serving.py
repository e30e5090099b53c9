"""Answers the generating endpoints: body in, engine requests, answer out."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.body import read_body
from server.api.deltas import collect, generate_all
from server.api.disconnect import await_while_connected
from server.api.formats import AnswerFormat, AnswerHead, ChatFormat, CompletionFormat, Usage
from server.api.resolution import ServedModel, resolve_model
from server.api.schemas import COMPLETION_MAX_TOKENS, ChatBody, CompletionBody, GenerationBody
from server.api.settings import ApiSettings
from server.api.streaming import AnswerStream, StreamResponse
from server.core.errors import PromptTooLongError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatTokenizer, GenerationEngine
from server.core.request import GenerationRequest

# Below this, tokenising takes less time than handing it to a thread would save the event loop.
_MAX_INLINE_CHARS = 16_384

TokenIds = tuple[int, ...]


class Serving:
    """Takes validated bodies to the engine. Holds no state of its own between requests."""

    def __init__(
        self,
        engine: GenerationEngine,
        catalog: AdapterCatalog,
        tokenizer: ChatTokenizer,
        *,
        info: ModelInfo,
        settings: ApiSettings,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._tokenizer = tokenizer
        self._info = info
        self._settings = settings

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body = await read_body(request, ChatBody, self._settings.max_body_bytes)
        served = self._resolve(body, 1)
        messages = [message.as_template_message() for message in body.messages]
        num_chars = sum(len(message["content"]) for message in messages)
        prompt = await self._tokens(lambda: self._tokenizer.render_chat(messages), num_chars)
        max_tokens = body.token_limit or self._room(prompt, "messages")
        self._check_fits(prompt, max_tokens, "messages")
        head = _head("chatcmpl-", served)
        return await self._answer(
            request,
            body,
            [
                GenerationRequest(
                    head.answer_id, prompt, body.sampling(max_tokens), served.stack, body.n
                )
            ],
            served=served,
            head=head,
            answer=ChatFormat(head, includes_usage=body.includes_usage),
        )

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body = await read_body(request, CompletionBody, self._settings.max_body_bytes)
        served = self._resolve(body, len(body.prompts))
        head = _head("cmpl-", served)
        engine_requests = []
        for index, prompt in enumerate(body.prompts):
            token_ids = await self._prompt_tokens(prompt)
            default = min(COMPLETION_MAX_TOKENS, self._room(token_ids, "prompt"))
            max_tokens = body.max_tokens or default
            self._check_fits(token_ids, max_tokens, "prompt")
            engine_requests.append(
                GenerationRequest(
                    f"{head.answer_id}-{index}",
                    token_ids,
                    body.sampling(max_tokens),
                    served.stack,
                    body.n,
                )
            )
        return await self._answer(
            request,
            body,
            engine_requests,
            served=served,
            head=head,
            answer=CompletionFormat(head, includes_usage=body.includes_usage),
        )

    def _resolve(self, body: GenerationBody, num_prompts: int) -> ServedModel:
        limit, num_choices = self._settings.max_choices, num_prompts * body.n
        if num_choices > limit:
            raise RequestError(
                f"n is {body.n} for {num_prompts} prompt(s), which makes {num_choices} answers; "
                f"one request takes up to {limit}: send several",
                "n" if body.n > 1 else "prompt",
            )
        return resolve_model(
            body.model,
            body.adapters,
            info=self._info,
            catalog=self._catalog,
            sticky_key=body.user or body.safety_identifier,
        )

    async def _tokens(self, tokenise: Callable[[], TokenIds], num_chars: int) -> TokenIds:
        if num_chars <= _MAX_INLINE_CHARS:
            return tokenise()
        return await asyncio.to_thread(tokenise)

    async def _prompt_tokens(self, prompt: str | list[int]) -> TokenIds:
        if isinstance(prompt, str):
            token_ids = await self._tokens(lambda: self._tokenizer.encode(prompt), len(prompt))
        else:
            token_ids = tuple(prompt)
            size = self._info.vocab_size
            unknown = next((t for t in token_ids if not 0 <= t < size), None)
            if unknown is not None:
                raise RequestError(
                    f"prompt holds the token id {unknown}; this model's are 0 to {size - 1}",
                    "prompt",
                )
        if not token_ids:
            raise RequestError("prompt is empty; give at least one token to continue", "prompt")
        return token_ids

    def _room(self, prompt: TokenIds, param: str) -> int:
        """Tokens of answer that fit behind `prompt`, at least 1."""
        window = self._info.max_model_len
        if len(prompt) >= window:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens; this model's window is {window} tokens, "
                f"prompt and answer together. Shorten {param} to {window - 1} tokens or fewer",
                param,
            )
        return window - len(prompt)

    def _check_fits(self, prompt: TokenIds, max_tokens: int, param: str) -> None:
        room = self._room(prompt, param)
        if max_tokens > room:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}; together "
                f"they exceed this model's window of {self._info.max_model_len} tokens. Set "
                f"max_tokens to {room} or less, or shorten {param}",
                "max_tokens",
            )

    async def _answer(
        self,
        request: Request,
        body: GenerationBody,
        engine_requests: Sequence[GenerationRequest],
        *,
        served: ServedModel,
        head: AnswerHead,
        answer: AnswerFormat,
    ) -> Response:
        headers = {**served.headers, "x-request-id": head.answer_id}
        num_choices = len(engine_requests) * body.n
        num_prompt_tokens = sum(len(r.prompt_token_ids) for r in engine_requests)
        deltas = generate_all(self._engine, engine_requests)
        if body.stream:
            stream = AnswerStream(
                deltas,
                answer,
                num_choices=num_choices,
                num_prompt_tokens=num_prompt_tokens if body.includes_usage else None,
            )
            await stream.open(request.receive, self._settings.opening_seconds)
            return StreamResponse(stream, headers=headers, settings=self._settings)
        collecting = asyncio.create_task(collect(deltas, num_choices))
        await await_while_connected(collecting, request.receive)
        choices, num_tokens = collecting.result()
        usage = Usage(num_prompt_tokens, num_tokens)
        return JSONResponse(answer.whole(choices, usage), headers=headers)


def _head(prefix: str, served: ServedModel) -> AnswerHead:
    return AnswerHead(prefix + secrets.token_hex(12), int(time.time()), served.expression)
