"""A real HTTP server on this machine that speaks both OpenAI protocols; tests say what it answers."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SETTINGS: dict[str, Any] = {
    "model": "llama", "api": "chat", "api_key_env": "", "concurrency": 32, "timeout_s": 5.0, "retries": 6, "request_per_seed": True,
    "logprobs": True, "version": "1", "max_new_tokens": 9,
}  # fmt: skip
"""How it is asked; what `ServerSettings` has beside the address."""

Answer = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], str]]
"""From the number and the body of a request to status, headers and text."""

DROP = -1
"""A status that means: close the connection without an answer."""


class Server:
    """A chat server whose answers a test can replace, by the number of the request."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answer = answer
        self.seconds = 0.0
        self.in_flight = self.peak = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._http.server_port}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(handler.headers)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        time.sleep(self.seconds)
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        status, headers, text = self.answer(number, body) if handler.path == path else (404, {}, "")
        with self._lock:
            self.in_flight -= 1
        if status == DROP:
            handler.close_connection = True
            return
        content = text.encode()
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def fail_first(self, count: int, status: int, headers: dict[str, str] | None = None, text: str = "busy") -> None:
        """Answer the first requests with an error."""
        otherwise = self.answer
        self.answer = lambda number, body: (status, headers or {}, text) if number < count else otherwise(number, body)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
