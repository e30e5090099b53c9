"""The bodies of `/tokenize` and `/detokenize`."""

from typing import Self

from pydantic import Field, model_validator

from server.api.requests import unsupported
from server.api.requests.chat_and_completion import ConversationBody
from server.api.requests.generation import ModelName, TokenId
from server.api.requests.messages import MAX_MESSAGES, Message
from server.api.requests.model import NULL, RequestBody, refuse


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

    model: ModelName | None = None
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

    model: ModelName | None = None
    tokens: list[TokenId]
