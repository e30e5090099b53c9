"""Answers the generating endpoints: body in, engine requests, answer out."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from server.api.answers.chat import ChatFormat
from server.api.answers.completion import CompletionFormat, CompletionPrompt
from server.api.answers.format import StreamReport
from server.api.answers.logprobs import LogprobObjects
from server.api.answers.responses_api import ResponsesFormat
from server.api.generation.answering import (
    Answering,
    Job,
    answer_head,
    answer_headers,
    best_choices,
)
from server.api.generation.conversation import Conversation, Conversations
from server.api.generation.prompts import PromptTokens
from server.api.generation.resolution import ServedModel, check_scales, resolve_model
from server.api.generation.sampling import SamplingFactory
from server.api.request_facts import CURRENT_FACTS
from server.api.requests.body import read_body
from server.api.requests.chat_and_completion import COMPLETION_MAX_TOKENS, ChatBody, CompletionBody
from server.api.requests.disconnect import while_connected
from server.api.requests.generation import GenerationBody
from server.api.requests.responses_api import ResponseBody
from server.api.requests.side_work import SideWork
from server.api.settings import ApiSettings
from server.core.errors import RequestError
from server.core.grammar import GrammarCompiler
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatTokenizer, GenerationEngine
from server.core.request import GenerationRequest


class Serving:
    """Takes validated bodies to the engine. Holds no state of its own between requests."""

    def __init__(
        self,
        engine: GenerationEngine,
        catalog: AdapterCatalog,
        tokenizer: ChatTokenizer,
        grammars: GrammarCompiler,
        *,
        info: ModelInfo,
        settings: ApiSettings,
        prompts: PromptTokens,
        side: SideWork,
    ) -> None:
        self._catalog = catalog
        self._tokenizer = tokenizer
        self._info = info
        self._settings = settings
        self._answering = Answering(engine, settings, side)
        self._prompts = prompts
        self._conversations = Conversations(tokenizer, settings.tool_format)
        self._sampling = SamplingFactory(tokenizer, grammars, info, side)
        self._logprobs = LogprobObjects(tokenizer)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body = await read_body(request, ChatBody, self._settings.max_body_bytes)
        served = self.resolve(body, 1, body.n)
        head = answer_head("chatcmpl-", served)
        work, conversation = await while_connected(
            self._chat_work(body, served, head.answer_id), request
        )
        prompt = work.prompt_token_ids
        answer = ChatFormat(
            head,
            _report(body, len(prompt)),
            logprobs=self._logprobs if body.logprobs else None,
            make_parser=conversation.make_parser,
            uses_functions=body.uses_functions,
            prompt_scores=(self._logprobs, prompt) if body.shows_prompt_scores else None,
        )
        return await self._answering.answer(
            request, Job([work], answer, answer_headers(served, head), body.stream)
        )

    async def respond(self, request: Request) -> Response:
        """`POST /v1/responses`."""
        body = await read_body(request, ResponseBody, self._settings.max_body_bytes)
        chat = body.as_chat()
        served = self.resolve(chat, 1, 1)
        head = answer_head("resp_", served)
        work, conversation = await while_connected(
            self._chat_work(chat, served, head.answer_id), request
        )
        answer = ResponsesFormat(
            head, body, logprobs=self._logprobs, make_parser=conversation.make_parser
        )
        return await self._answering.answer(
            request, Job([work], answer, answer_headers(served, head), body.stream)
        )

    async def _chat_work(
        self, body: ChatBody, served: ServedModel, request_id: str
    ) -> tuple[GenerationRequest, Conversation]:
        """What a conversation asks of the engine, and how its answer is to be read."""
        conversation = self._conversations.of_chat(body, served)
        prompt = await self._prompts.of_chat(conversation.prompt)
        self._prompts.check_text(prompt, "messages")
        prompt = self._prompts.truncated(prompt, body.truncate_prompt_tokens, body.token_limit)
        max_tokens = body.token_limit or self._prompts.room(prompt, "messages")
        self._prompts.check_fits(prompt, max_tokens, "messages")
        sampling = await self._sampling.params(
            body,
            max_tokens,
            shape=conversation.shape,
            looser_shape=conversation.looser_shape,
            scores=body.scores_asked((body.top_logprobs or 0) if body.logprobs else None),
            shows_special_tokens=conversation.shows_special_tokens,
        )
        work = GenerationRequest(
            request_id,
            prompt,
            sampling,
            served.stack,
            body.n,
            cache_salt=body.cache_salt or "",
        )
        return work, conversation

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body = await read_body(request, CompletionBody, self._settings.max_body_bytes)
        served = self.resolve(body, len(body.prompts), body.num_tries)
        head = answer_head("cmpl-", served)
        works, prompts = await while_connected(
            self._completions(body, served, head.answer_id), request
        )
        answer = CompletionFormat(
            head,
            _report(body, sum(len(prompt.token_ids) for prompt in prompts)),
            prompts=prompts,
            choices_per_prompt=body.n,
            echoes=body.echo,
            logprobs=self._logprobs if body.logprobs is not None else None,
            prompt_scores=self._logprobs if body.shows_prompt_scores else None,
        )
        job = Job(
            works,
            answer,
            answer_headers(served, head),
            body.stream,
            hides_answer=body.max_tokens == 0,
            choose=best_choices(body.num_tries, body.n),
        )
        return await self._answering.answer(request, job)

    async def _completions(
        self, body: CompletionBody, served: ServedModel, request_id: str
    ) -> tuple[list[GenerationRequest], list[CompletionPrompt]]:
        works, prompts = [], []
        for index, given in enumerate(body.prompts):
            prompt = await self._completion_prompt(body, given)
            works.append(await self._completion(body, f"{request_id}-{index}", prompt, served))
            prompts.append(prompt)
            await asyncio.sleep(0)  # others' turn: there may be a hundred long prompts
        return works, prompts

    def resolve(self, body: GenerationBody, num_prompts: int, num_tries: int) -> ServedModel:
        """What serves the request. Raises `RequestError` for too many answers or a huge scale."""
        limit, num_choices = self._settings.max_choices, num_prompts * num_tries
        if num_choices > limit:
            param = "prompt" if num_tries == 1 else "n" if num_tries == body.n else "best_of"
            raise RequestError(
                f"{'n' if param == 'prompt' else param} is {num_tries} for {num_prompts} prompt(s),"
                f" which makes {num_choices} answers; one request takes up to {limit}: send "
                "several",
                param,
            )
        served = resolve_model(
            body.model,
            body.adapters,
            info=self._info,
            catalog=self._catalog,
            sticky_key=body.user or body.safety_identifier,
        )
        if (facts := CURRENT_FACTS.get()) is not None:
            facts.adapter = served.expression
        scales = ((member.adapter.label, member.scale) for member in served.stack.members)
        check_scales(scales, "adapters" if body.adapters else "model")
        return served

    async def _completion_prompt(
        self, body: CompletionBody, given: str | list[int]
    ) -> CompletionPrompt:
        whole = await self._prompts.of_prompt(
            given,
            adds_special_tokens=body.add_special_tokens,
            is_cut=body.truncate_prompt_tokens is not None,
        )
        token_ids = self._prompts.truncated(whole, body.truncate_prompt_tokens, body.max_tokens)
        if not body.echo:
            return CompletionPrompt(token_ids)
        is_as_given = isinstance(given, str) and token_ids == whole
        text = given if is_as_given else self._tokenizer.decode(token_ids)
        assert isinstance(text, str)
        return CompletionPrompt(token_ids, text)

    async def _completion(
        self, body: CompletionBody, request_id: str, prompt: CompletionPrompt, served: ServedModel
    ) -> GenerationRequest:
        token_ids = prompt.token_ids
        default = min(COMPLETION_MAX_TOKENS, self._prompts.room(token_ids, "prompt"))
        max_tokens = default if body.max_tokens is None else max(1, body.max_tokens)
        self._prompts.check_fits(token_ids, max_tokens, "prompt")
        is_ranked = body.num_tries > body.n
        drawn = 0 if body.logprobs is None and is_ranked else body.logprobs
        sampling = await self._sampling.params(
            body,
            max_tokens,
            shape=body.shape,
            scores=body.scores_asked(drawn, echoed=body.logprobs if body.echo else None),
        )
        return GenerationRequest(
            request_id,
            token_ids,
            sampling,
            served.stack,
            body.num_tries,
            cache_salt=body.cache_salt or "",
        )


def _report(body: GenerationBody, num_prompt_tokens: int) -> StreamReport:
    return StreamReport(body.includes_usage, body.counts_along, num_prompt_tokens)
