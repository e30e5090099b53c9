"""Chats with a model behind any OpenAI-compatible endpoint."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trainer.errors import EvaluationError

_TIMEOUT_SECONDS = 600.0


class ChatClient:
    """Asks `model` at the endpoint `url` (with or without `/v1`), greedily."""

    def __init__(self, url: str, model: str, api_key: str | None, *, max_tokens: int) -> None:
        self._base = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._max_tokens = max_tokens
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(
        self,
        messages: Sequence[dict[str, Any]],
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The answer's text, JSON by `schema` where one is given; "" where it has none.

        A connection each, so that none is left open and threads may ask at once.
        Raises `EvaluationError` when the endpoint can't be reached or refuses.
        """
        import httpx

        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
        if tools:
            body["tools"] = list(tools)
        if schema is not None:
            named = {"name": "answer", "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        with self._explaining():
            response = httpx.post(
                f"{self._base}/v1/chat/completions",
                json=body,
                headers=self._headers,
                timeout=_TIMEOUT_SECONDS,
            )
            response.raise_for_status()
            return str(response.json()["choices"][0]["message"]["content"] or "")

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.HTTPStatusError as error:
            raise EvaluationError(
                f"{self._base} refused to answer as {self._model}: {error.response.text[:200]}"
            ) from error
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise EvaluationError(
                f"{self._base} can't be asked as {self._model}: {error}"
            ) from error
