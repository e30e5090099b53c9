"""An OpenAI-compatible chat endpoint on a free port that remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Endpoint:
    """`url` to ask at, and the bodies that came."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def models(self) -> set[str]:
        """Every model name that was asked for."""
        return {body["model"] for body in self.bodies}


@contextmanager
def chat_endpoint(reply: Callable[[dict[str, Any]], str]) -> Iterator[Endpoint]:
    """While open, every chat completion is answered with `reply(body)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.bodies.append(body)
            answer = {"choices": [{"message": {"role": "assistant", "content": reply(body)}}]}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
