"""Does a running server compute what was trained? The same bytes, the same prompts, token by token.

The trainer's own forward is transformers and PEFT over the base as the manifest describes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from adapters.base.loading import LoadedBase, load_base
from adapters.base.quantization import QuantizationSpec
from adapters.base.training_guard import prepare_for_training
from adapters.format.digest import adapter_digest
from adapters.store.store import StoredAdapter
from trainer.errors import ServingError
from trainer.tuning.peft_loading import load_adapter

PROMPTS = (
    "What is the capital of France?",
    "My parcel is late and nobody answers the phone.",
    "请用一句话介绍一下北京。",
)
"""Asked beside the manifest's golden tokens."""

NEAR_TIE = 0.25
"""Logits that lie this close are one draw to two ways of rounding bfloat16 (its step is 0.125
between 16 and 32): where the texts part at such a place, that is said and isn't held against the
server."""

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PromptParity:
    """One prompt's greedy answers. `margin` is how far ahead the trainer's choice was where the
    texts part; None where they are equal. `logprob_difference` is the largest between the
    logarithms that both gave to the same tokens; None where the server gives none.
    """

    mine: str
    theirs: str
    margin: float | None
    logprob_difference: float | None

    @property
    def is_equal(self) -> bool:
        return self.margin is None

    @property
    def holds(self) -> bool:
        return self.margin is None or self.margin < NEAR_TIE


@dataclass(frozen=True, slots=True)
class ParityReport:
    """`digest_trained` is of the files here, `digest_served` what the server says it served."""

    digest_trained: str
    digest_served: str
    prompts: tuple[PromptParity, ...]

    @property
    def holds(self) -> bool:
        return self.digest_trained == self.digest_served and all(p.holds for p in self.prompts)


def verify_served(
    stored: StoredAdapter, url: str, *, api_key: str | None = None, num_tokens: int = 16
) -> ParityReport:
    """Compare `stored` with the server at `url`.

    Raises `ServingError` when the server refuses, or when the manifest knows no base.
    """
    model, base = _own_model(stored)
    client = _Server(url, api_key, f"{stored.name}@{stored.version}")
    digest = ""
    compared = []
    for prompt in _prompts(stored, base):
        answer = client.complete(prompt, num_tokens)
        digest = answer.digest
        compared.append(_compare(model, base.tokenizer, prompt, answer, num_tokens))
    return ParityReport(adapter_digest(stored.path), digest, tuple(compared))


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    logprobs: tuple[float, ...]
    digest: str


class _Server:
    """The completions endpoint, with a prompt of token ids: nobody renders a template here."""

    def __init__(self, url: str, api_key: str | None, model: str) -> None:
        self._url = f"{url.rstrip('/').removesuffix('/v1')}/v1/completions"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._asks_logprobs = True

    def complete(self, prompt: Sequence[int], num_tokens: int) -> _Answer:
        body: dict[str, Any] = {
            "model": self._model, "prompt": list(prompt), "max_tokens": num_tokens,
            "temperature": 0.0,
        }  # fmt: skip
        response = self._post(body | ({"logprobs": 1} if self._asks_logprobs else {}))
        if response.status_code == httpx.codes.BAD_REQUEST and self._asks_logprobs:
            self._asks_logprobs = False
            response = self._post(body)
        if response.status_code != httpx.codes.OK:
            raise ServingError(f"{self._url} answers {response.status_code}: {response.text[:300]}")
        choice = response.json()["choices"][0]
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
        digest = response.headers.get("x-adapter-digest", "")
        return _Answer(str(choice["text"]), tuple(logprobs), digest)

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            return httpx.post(self._url, json=body, headers=self._headers, timeout=_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            raise ServingError(f"no server answers at {self._url}: {error}") from error


def _own_model(stored: StoredAdapter) -> tuple[Any, LoadedBase]:
    lineage, record = stored.manifest.base, stored.manifest.quantization
    if lineage is None or record is None:
        raise ServingError(
            f"the manifest of {stored.label} names no base, so there is nothing to compute with"
        )
    spec = QuantizationSpec(record.scheme, record.block_size, record.double_quant)
    base = load_base(lineage.reference, spec)
    if base.resolved.digest != lineage.digest:
        raise ServingError(
            f"{lineage.reference} is here as {base.resolved.digest}, and {stored.label} was "
            f"trained on {lineage.digest}"
        )
    prepare_for_training(base.model)  # keeps the plain, unpacked kernels
    return load_adapter(base.model, stored.path), base


def _prompts(stored: StoredAdapter, base: LoadedBase) -> list[list[int]]:
    template = stored.manifest.template
    prompts = [list(template.golden_token_ids)] if template and template.golden_token_ids else []
    for text in PROMPTS:
        if base.template.text:
            text = base.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                # Not the manifest's, which came from anywhere: any prompt compares as well.
                chat_template=base.template.text,
                add_generation_prompt=True,
                tokenize=False,
            )
        prompts.append(base.tokenizer.encode(text, add_special_tokens=False))
    return prompts


def _compare(
    model: Any, tokenizer: Any, prompt: Sequence[int], answer: _Answer, num_tokens: int
) -> PromptParity:
    """Decode greedily here, without a cache, and find where the texts part."""
    end_ids = model.generation_config.eos_token_id
    ends = set(end_ids if isinstance(end_ids, list) else [end_ids])
    ids, logprobs, margins = list(prompt), [], []
    device = next(model.parameters()).device
    while len(ids) < len(prompt) + num_tokens:
        with torch.no_grad():
            row = torch.tensor([ids], device=device)
            logits = model(input_ids=row, use_cache=False).logits[0, -1].float()
        first, second = logits.topk(2).values.tolist()
        token = int(logits.argmax())
        margins.append(first - second)
        if token in ends:
            break
        logprobs.append(float(logits.log_softmax(0)[token]))
        ids.append(token)
    own = ids[len(prompt) :]
    mine = _text(tokenizer, own)
    theirs = answer.text.rstrip("�")
    shared = zip(logprobs, answer.logprobs, strict=False)
    if mine == theirs:
        difference = max((abs(a - b) for a, b in shared), default=None)
        return PromptParity(mine, theirs, None, difference)
    # The first own token whose text the server's answer doesn't begin with.
    parts = next(
        (n for n in range(len(own)) if not theirs.startswith(_text(tokenizer, own[: n + 1]))),
        len(margins) - 1,
    )
    return PromptParity(mine, theirs, margins[parts], None)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).rstrip("�")
