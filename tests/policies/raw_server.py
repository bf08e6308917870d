"""A server on this machine that answers with any bytes, whether they are HTTP or not."""

from __future__ import annotations

import socket
import threading


class RawServer:
    """Answers each connection with `answer` once its request has come, then closes it.

    With `reset` it closes it by a reset instead; if `blind`, it answers whatever has come first.
    """

    def __init__(self) -> None:
        self.answer = b""
        self.reset = self.blind = False
        self.requests = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:  # closed
                return
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(5)
        received = b""
        try:
            while b"\r\n\r\n" not in received and not (self.blind and received):
                received += peer.recv(65536) or b"\r\n\r\n"
            head, _, body = received.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            while len(body) < length:
                body += peer.recv(65536)
            self.requests += 1
            if self.reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                peer.sendall(self.answer)
        except OSError:  # the client has gone, which is its right
            return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
