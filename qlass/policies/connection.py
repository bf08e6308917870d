"""The way to a server: one HTTP client, with its key, its proxies and its certificates, all checked before it is used.

A server on this machine is asked directly, whatever proxy is set.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies_environment, proxy_bypass

from qlass.errors import DependencyNotInstalled, SettingsError
from qlass.policies.replies import Cause, Fault

LONGEST_ANSWER = 64 << 20
"""Bytes of the longest answer that is read: a thousand times what replies of usual length take."""
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Received:
    """What came back.

    Attributes:
        status: of HTTP.
        content: the body, without the API key (some servers repeat it).
        location: where a redirect leads.
        wait_s: seconds that the server asks to wait, None where it does not.
    """

    status: int
    content: bytes
    location: str
    wait_s: float | None


class Connection:
    """Sends requests; close it at the end. Threads may share it.

    Attributes:
        where: the server's address, without user and password.
        proxied_by: the environment variable that names the proxy between us and the server; empty where there is none.
    """

    def __init__(self, base_url: str, api_key_env: str, timeout_s: float, connections: int) -> None:
        """Check what can be known before the first request.

        Args:
            base_url: the server's address, up to and including the version.
            api_key_env: environment variable of the API key; empty: no key is sent.
            timeout_s: longest wait for one answer, and for a connection (seconds).
            connections: at most so many at a time.

        Raises:
            SettingsError: the address is none, the API key is missing, or a variable of the environment (a proxy, a file
                of certificates) cannot be used; names it.
            DependencyNotInstalled: httpx is missing.
        """
        self._httpx = httpx = _import_httpx()
        self._url = _checked_url(httpx, base_url)
        self._timeout_s, key = timeout_s, _api_key(api_key_env)
        # As they are, and as they may stand in JSON and in an address.
        secrets = [secret for secret in (key, self._url.password) if secret]
        self._secrets = [form for one in secrets for form in (one, json.dumps(one)[1:-1], quote(one, safe=""))]
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        verify = _certificates(httpx)
        self.proxied_by, proxy = _proxy(httpx, self._url)
        # With a transport of its own a client looks for no proxy itself: it would stumble over one for other servers.
        transport = httpx.HTTPTransport(verify=verify, limits=limits, proxy=proxy)
        # No cookie is kept: httpx cannot send all those that it takes, and requests should not depend on each other.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = httpx.Client(
            base_url=self._url, headers=headers, cookies=cookies, timeout=timeout_s, transport=transport
        )
        self.where = str(self._client.base_url.copy_with(userinfo=b""))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> Received:
        """Send a request and return what comes back, whatever its status.

        Raises:
            Fault: nothing came back, or not all of it, or too much.
        """
        try:
            return self._post(path, body)
        except self._httpx.RequestError as error:
            raise Fault(_cause(self._httpx, error), self.hidden(f"{type(error).__name__}: {error}")) from None

    def _post(self, path: str, body: Mapping[str, Any]) -> Received:
        """Read an answer piece by piece: a server that sends a byte now and then is as late as one that sends none."""
        ends = time.monotonic() + self._timeout_s
        content = bytearray()
        with self._client.stream("POST", path, json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > LONGEST_ANSWER:
                    raise Fault(Cause.PROTOCOL, f"an answer of more than {LONGEST_ANSWER >> 20} MiB")
                if time.monotonic() > ends:
                    raise Fault(Cause.NETWORK, f"ReadTimeout: not all of an answer within {self._timeout_s:g} s")
            found = bytes(content)
            for secret in self._secrets:
                found = found.replace(secret.encode(), _HIDDEN.encode())
            location = self.hidden(response.headers.get("location", ""))
            return Received(response.status_code, found, location, wait_of(response.headers.get("retry-after", "")))

    def hidden(self, text: str) -> str:
        """Return a text without the API key and the password of the address."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text


def is_this_machine(host: str) -> bool:
    """Say whether a host name or address, without brackets, means this very machine by its loopback."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None) or address
    return bool(inner.is_loopback or inner.is_unspecified)


def wait_of(retry_after: str) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110: a number, or a date); None where it names no time to come.

    Args:
        retry_after: what the server sent, which may be anything.
    """
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return seconds if seconds >= 0 else None  # also for NaN


def _cause(httpx: Any, error: Exception) -> Cause:
    """Return why no answer came."""
    if isinstance(error, httpx.ProxyError):
        return Cause.PROXY if str(error).startswith("407") else Cause.NETWORK
    if isinstance(error, httpx.DecodingError | httpx.RemoteProtocolError):
        return Cause.CUT
    inner: BaseException | None = error
    while inner is not None:
        # While a connection is made, a broken one is an SSLEOFError; the others are about who does not trust whom.
        if isinstance(inner, ssl.SSLError) and not isinstance(inner, ssl.SSLEOFError):
            return Cause.CERTIFICATE if isinstance(error, httpx.ConnectError) else Cause.CUT
        inner = inner.__cause__ or inner.__context__
    return Cause.NETWORK


def _import_httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise DependencyNotInstalled("a policy behind a server needs httpx: pip install qlass[serve]") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs a line per request, and there are very many
    return httpx


def _checked_url(httpx: Any, base_url: str) -> Any:
    """Return the address, taken apart."""
    shown = _without_password(base_url)
    try:
        url = httpx.URL(base_url)
        if not url.host:
            raise SettingsError(f"base_url: found {shown!r}, which names no host")
        _check_host(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise SettingsError(f"base_url: found {shown!r}, which is not a URL: {error}") from None
    if url.query or url.fragment:
        raise SettingsError(
            f"base_url: found {shown!r}; allowed: an address without ? and #, which ends with the version of the "
            "protocol, as in http://127.0.0.1:8000/v1"
        )
    return url


def _check_host(url: Any) -> None:
    """Raise a ValueError for a host or port that the operating system would not take."""
    name = url.host.encode("idna").decode()
    if ":" in name:
        ipaddress.ip_address(name)
    elif not re.fullmatch(r"[\w.-]{1,253}", name):
        raise ValueError("that is no name of a host")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError(f"port {url.port} is not 1 to 65535")


def _without_password(address: str) -> str:
    return re.sub("//[^/@]*@", f"//{_HIDDEN}@", address)


def _api_key(variable: str) -> str:
    """Read the API key; an empty variable name means that none is wanted."""
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise SettingsError(f"api_key_env: the environment variable {variable} is not set; set it to the API key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"api_key_env: the environment variable {variable} holds a character that no API key has (a space, a line "
            "break, or one outside ASCII); set it to the API key alone"
        )
    return key


def _certificates(httpx: Any) -> Any:
    """Return which certificates are trusted: httpx reads two variables of the environment for that."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        raise SettingsError(
            f"{' or '.join(names)}: the environment variable names no file of certificates that can be read ({error}); "
            "correct or unset it"
        ) from None


def _proxy(httpx: Any, url: Any) -> tuple[str, Any]:
    """Return the proxy for the server, and the variable of the environment that says so; "" and None for neither.

    Raises:
        SettingsError: the variable holds no address of a proxy, or a kind that needs another package; names it.
    """
    proxies = getproxies_environment()
    kind = next((one for one in (url.scheme, "all") if proxies.get(one)), None)
    if kind is None or is_this_machine(url.host) or _excepted(url):
        return "", None
    value = proxies[kind]
    name = next(one for one, held in os.environ.items() if one.lower() == f"{kind}_proxy" and held == value)
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        _check_host(proxy.url)
        httpx.HTTPTransport(proxy=proxy).close()
    except ImportError:
        raise SettingsError(
            f"{name}: the environment variable names a SOCKS proxy, which needs another package: pip install "
            f"'httpx[socks]'; or add {url.host} to NO_PROXY"
        ) from None
    except (httpx.InvalidURL, ValueError):  # the value is not shown: it may hold a password
        raise SettingsError(
            f"{name}: the environment variable holds no address of a proxy; allowed: http://HOST:PORT, https://HOST:PORT "
            f"or socks5://HOST:PORT; correct it, or add {url.host} to NO_PROXY"
        ) from None
    return name, proxy


def _excepted(url: Any) -> bool:
    """Say whether NO_PROXY has the server: by its name or a domain of it, its address, or a network that it is in."""
    if proxy_bypass(url.host):
        return True
    for entry in getproxies_environment().get("no", "").split(","):
        with suppress(ValueError):
            network = ipaddress.ip_network(entry.strip(" []"), strict=False)
            if ipaddress.ip_address(url.host) in network:
                return True
    return False
