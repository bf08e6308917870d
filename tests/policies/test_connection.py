"""The way to a server: proxies, keys, certificates, and answers that do not come, on real sockets of this machine."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from qlass.errors import Busy, DataError, SettingsError
from qlass.policies import connection
from qlass.policies.base import Propose
from qlass.policies.connection import is_this_machine
from qlass.policies.server import ServerPolicy, ServerSettings
from qlass.records import Message, Proposal
from tests.ports import closed_port

from .local_server import SETTINGS, Server
from .raw_server import RawServer

pytest.importorskip("httpx", reason="needs the extra serve")

KEY = "sk-very-secret-0123456789"
GO = json.dumps({"choices": [{"message": {"content": "Action: go"}}]})
DEAD = f"127.0.0.1:{closed_port()}"
ELSEWHERE = "http://policy.invalid:8000/v1"
"""A host that no name server knows (RFC 6761)."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with closing(RawServer()) as made:
        yield made


def ask(url: str, **changes: Any) -> Proposal:
    """Ask for one reply, once."""
    settings = {**SETTINGS, "base_url": url, "retries": 0, "timeout_s": 2.0, "logprobs": False} | changes
    with closing(ServerPolicy(ServerSettings(**settings), str.lower)) as policy:
        (answer,) = policy.propose([Propose((Message("user", "cell 1"),), (1,), 0.7)])
    return answer.proposals[0]


PROXIES = {
    "http_proxy": f"http://{DEAD}",
    "HTTP_PROXY": f"http://{DEAD}",
    "https_proxy": f"http://{DEAD}",
    "all_proxy": f"http://{DEAD}",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "Http_Proxy": DEAD,
}


@pytest.mark.parametrize("variable", PROXIES)
@pytest.mark.parametrize("value", [None, "socks5://127.0.0.1:9", "no scheme:9", "http://[bad", "ftp://x", "://", " "])
def test_this_machine_is_asked_directly(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None
) -> None:
    """Whatever a proxy is said to be: none would reach it.

    Reported as NousResearch/hermes-agent#5834 and CommonstackAI/UncommonRoute#5.
    """
    raw.answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(GO)}\r\n\r\n{GO}".encode()
    monkeypatch.setenv(variable, PROXIES[variable] if value is None else value)
    monkeypatch.setenv("NO_PROXY", "[::1]")
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104
        assert ask(f"http://{host}:{raw.port}/v1").action == "go"


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1", True), ("127.9.8.7", True), ("::1", True), ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True),
        ("0.0.0.0", True),  # noqa: S104
        ("::", True), ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False), ("localhost.example", False), ("10.0.0.1", False), ("::2", False), ("", False), ("127.example", False),
    ],
)  # fmt: skip
def test_what_this_machine_is(host: str, wanted: bool) -> None:
    assert is_this_machine(host) == wanted


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "Http_Proxy"])
def test_a_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The server may run: what cannot be reached is the proxy."""
    monkeypatch.setenv(variable, f"http://user:{KEY}@{DEAD}")
    with pytest.raises(Busy, match=rf"policy.invalid.*\(by the proxy that {variable} names\).*ConnectError") as caught:
        ask(ELSEWHERE)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("excepted", ["policy.invalid", ".invalid", "*", "a, policy.invalid ,b"])
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_exceptions_are_obeyed(monkeypatch: pytest.MonkeyPatch, excepted: str, variable: str) -> None:
    monkeypatch.setenv("http_proxy", f"http://{DEAD}")
    monkeypatch.setenv(variable, excepted)
    with pytest.raises(Busy, match=r"no answer after 1 attempts") as caught:
        ask(ELSEWHERE)
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize("excepted", ["10.9.8.7", "10.0.0.0/8", "[fd00::7]", "fd00::/8"])
def test_networks_are_excepted(monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    """Of NO_PROXY, httpx itself knows no networks, and stumbles over brackets."""
    host = "[fd00::7]" if ":" in excepted else "10.9.8.7"
    monkeypatch.setenv("http_proxy", "http://[bad")
    monkeypatch.setenv("NO_PROXY", excepted)
    settings = {**SETTINGS, "base_url": f"http://{host}/v1"}
    ServerPolicy(ServerSettings(**settings), str).close()
    monkeypatch.setenv("NO_PROXY", "10.9.8.8,fd01::/16")
    with pytest.raises(SettingsError, match="http_proxy: the environment variable holds no address of a proxy"):
        ServerPolicy(ServerSettings(**settings), str)


@pytest.mark.parametrize(
    "value",
    [f"ftp://user:{KEY}@x", f"http://user:{KEY}@x:port", "http://", "://", " ", "http://x:99999", f"http://{'a' * 70}.x", "http://a b"],
)  # fmt: skip
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: the environment variable holds no address") as caught:
        ask(ELSEWHERE)
    assert KEY not in str(caught.value)


def test_a_socks_proxy_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"^all_proxy: .*SOCKS proxy.*httpx\[socks\].*policy.invalid to NO_PROXY"):
        ask(ELSEWHERE)


def test_the_proxy_is_obeyed(monkeypatch: pytest.MonkeyPatch, raw: RawServer) -> None:
    """It gets the request, and its refusal is told as one."""
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{raw.port}")
    raw.answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(GO)}\r\n\r\n{GO}".encode()
    assert ask(ELSEWHERE).action == "go"
    raw.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(SettingsError, match=r"\(by the proxy that http_proxy names\): HTTP 407.*wants a user"):
        ask(ELSEWHERE)
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{raw.port}")
    with pytest.raises(SettingsError, match=r"\(by the proxy that https_proxy names\): ProxyError: 407.*wants a user"):
        ask(ELSEWHERE.replace("http:", "https:"))


@pytest.mark.parametrize("status", [401, 500, 302, 200])
@pytest.mark.parametrize("where", ["plain", "at the cut", "escaped", "redirect"])
def test_the_key_is_in_no_message(raw: RawServer, monkeypatch: pytest.MonkeyPatch, status: int, where: str) -> None:
    key = KEY + '/"\\x' if where == "escaped" else KEY
    monkeypatch.setenv("MY_KEY", key)
    words = {"at the cut": "x" * 290 + key, "escaped": json.dumps({"error": {"message": key}})}.get(
        where, f"bad {key}"
    )
    raw.answer = f"HTTP/1.1 {status} OK\r\nLocation: http://x/?key={quote(key, safe='')}\r\nContent-Length: {len(words)}\r\n\r\n{words}".encode()
    with pytest.raises((SettingsError, Busy, DataError)) as caught:
        ask(raw.url, api_key_env="MY_KEY")
    assert "sk-very" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["sk-1\n", " sk-1", "sk 1", "sk-\u00fc", "sk-\x00", "\u201csk-1\u201d"])
def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    if "\x00" in key:
        monkeypatch.setattr(os, "environ", {**os.environ, "MY_KEY": key})
    else:
        monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(SettingsError, match="MY_KEY holds a character that no API key has") as caught:
        ask("http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    assert "sk" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:99999/v1", "http://h:0/v1", f"http://{'a' * 70}.x/v1", "http://a..b/v1", "http://[::1/v1", "http://h\x00/v1",
        "http:// h/v1", "http://h/\ud800", "https://h/v1?api-version=2024", "http://h/v1#x", f"http://user:{KEY}@h:port/v1",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(SettingsError, match="^base_url: found ") as caught:
        ask(url)
    assert KEY not in str(caught.value)


def test_a_password_in_the_address(raw: RawServer) -> None:
    raw.answer = f"HTTP/1.1 401 No\r\n\r\nwrong: {KEY}".encode()
    with pytest.raises(SettingsError, match=r"http://127.0.0.1:\d+/v1/: HTTP 401: wrong: \*\*\*") as caught:
        ask(raw.url.replace("//", f"//user:{KEY}@"))
    assert KEY not in str(caught.value)


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(Busy, match=r"ConnectError: .*; start the server, or check base_url, and try again"):
        ask(ELSEWHERE)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"", "Server disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", "IncompleteRead|peer closed connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "peer closed connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx", "DecodingError"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "an empty answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "RemoteProtocolError"),
    ],
)
def test_answers_that_are_cut(raw: RawServer, answer: bytes, found: str) -> None:
    raw.answer = answer
    with pytest.raises(Busy, match=f"no answer after 3 attempts, the last one failed with .*({found})"):
        ask(raw.url, retries=2, backoff_s=0.001)
    assert raw.requests == 3


def test_cookies_are_not_kept(raw: RawServer) -> None:
    """httpx takes one that it cannot send: the next request would end with its UnicodeEncodeError."""
    raw.answer = f"HTTP/1.1 200 OK\r\nSet-Cookie: a=\u0080\r\nSet-Cookie: b=c\r\n\r\n{GO}".encode("latin-1")
    settings = {**SETTINGS, "base_url": raw.url, "logprobs": False}
    with closing(ServerPolicy(ServerSettings(**settings), str.lower)) as policy:
        for _ in range(2):
            policy.propose([Propose((Message("user", "cell 1"),), (1,), 0.7)])
    assert raw.requests == 2


def test_a_reset(raw: RawServer) -> None:
    raw.reset = True
    with pytest.raises(Busy, match="ReadError"):
        ask(raw.url, retries=1, backoff_s=0.001)
    assert raw.requests == 2


def test_an_endless_answer(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LONGEST_ANSWER", 3 << 20)
    raw.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (4 << 20) + GO.encode()
    with pytest.raises(DataError, match="an answer of more than 3 MiB"):
        ask(raw.url)
    raw.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2 << 20) + GO.encode()
    assert ask(raw.url).action == "go"


def test_an_answer_in_drops() -> None:
    """A byte now and then keeps a connection alive for ever; the time is that of the whole answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening, DripServer(listening):
        began = time.monotonic()
        with pytest.raises(Busy, match=r"ReadTimeout: not all of an answer within 0.5 s"):
            ask(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout_s=0.5)
        assert time.monotonic() - began < 5


class DripServer:
    """Sends a space every tenth of a second to the first who asks."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening, self._ended = listening, threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def _drip(self) -> None:
        peer, _ = self._listening.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self._ended.wait(0.1):
                try:
                    peer.sendall(b" ")
                except OSError:
                    return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a certificate that this machine signed for itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "policy")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    """A server behind that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with closing(Server(lambda number, body: (200, {}, GO), context)) as made:
        yield made


def test_certificates(secure: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody vouches for stays so: no second attempt. The variable that says who does is obeyed."""
    with pytest.raises(SettingsError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
        ask(secure.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ask(secure.url).action == "go"
    monkeypatch.setenv("http_proxy", f"http://{DEAD}")
    monkeypatch.setenv("https_proxy", f"http://{DEAD}")
    assert ask(secure.url).action == "go"
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(SettingsError, match="^SSL_CERT_FILE: the environment variable names no file of certificates"):
        ask(secure.url)


def test_a_server_without_encryption(raw: RawServer) -> None:
    raw.answer, raw.blind = b"HTTP/1.1 400 Bad Request\r\n\r\n", True
    with pytest.raises(SettingsError, match=r"ConnectError.*SSL.*correct https:// and the port"):
        ask(raw.url.replace("http:", "https:"))


def test_retry_after_is_obeyed_within_bounds(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("qlass.policies.server.time.sleep", waits.append)
    for value in (
        "7",
        "1e999",
        "9" * 400,
        "-3",
        "nan",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 3015 07:28:00 GMT",
    ):
        raw.answer = f"HTTP/1.1 429 No\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()
        with pytest.raises(Busy):
            ask(raw.url, retries=1, backoff_s=0.25)
    assert waits == [7.0, 60.0, 60.0, 0.25, 0.25, 0.25, 60.0]
    waits.clear()
    raw.answer = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(Busy, match="no answer after 1101 attempts"):
        ask(raw.url, retries=1100, backoff_s=0.25)
    assert waits[:3] == [0.25, 0.5, 1.0]
    assert waits[-1] == 60.0
