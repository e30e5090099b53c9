"""`trainer verify` against a small server that answers with the adapter, or with nonsense."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from adapters.format.manifest import BaseLineage, Manifest, QuantizationRecord
from adapters.store.store import AdapterStore, StoredAdapter
from tests.unit.trainer.methods.runs import attach, config, loaded, train
from trainer.errors import ServingError
from trainer.serving.parity import PROMPTS, verify_served


@contextmanager
def server(text_of: dict[str, str], digest: str) -> Iterator[str]:
    """Answers each prompt with its text in `text_of`, by the prompt's JSON; knows no logprobs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = 400 if "logprobs" in body else 200
            text = text_of.get(json.dumps(body["prompt"]), "?!")
            answer = json.dumps({"choices": [{"text": text}]}).encode()
            self.send_response(status)
            self.send_header("x-adapter-digest", digest)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def stored(tiny_base: Path, tmp_path: Path) -> StoredAdapter:
    settings = config(tiny_base)
    base = loaded(settings)
    tuning = attach(base, settings)
    train(tuning)
    tuning.write(tmp_path / "out", torch.bfloat16)
    manifest = Manifest(
        name="a",
        created_unix_seconds=1,
        method="lora",
        rank=16,
        base=BaseLineage(reference=str(tiny_base), digest=base.resolved.digest),
        quantization=QuantizationRecord(scheme="nf4", block_size=64, double_quant=True),
    )
    return AdapterStore(tmp_path / "store").publish("a", tmp_path / "out", manifest)


def test_the_same_answers_hold_and_others_do_not(stored: StoredAdapter) -> None:
    with server({}, stored.digest) as url:
        first = verify_served(stored, url, num_tokens=4)
    assert first.digest_served == stored.digest
    assert any(not parity.holds for parity in first.prompts)
    assert not first.holds

    answers = _answers(stored, [parity.mine for parity in first.prompts])
    with server(answers, stored.digest) as url:
        second = verify_served(stored, url, num_tokens=4)
    assert all(parity.is_equal for parity in second.prompts)
    assert second.holds
    with server(answers, "sha256:other") as url:
        assert not verify_served(stored, url, num_tokens=4).holds


def _answers(stored: StoredAdapter, texts: list[str]) -> dict[str, str]:

    assert stored.manifest.base is not None
    tokenizer = loaded(config(stored.manifest.base.reference)).tokenizer

    def tokens(prompt: str) -> list[int]:
        turns = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    return {json.dumps(tokens(p)): text for p, text in zip(PROMPTS, texts, strict=True)}


def test_no_server_is_one_sentence(stored: StoredAdapter) -> None:
    with pytest.raises(ServingError, match="no server answers"):
        verify_served(stored, "http://127.0.0.1:9", num_tokens=1)
