"""Proxies: servers on this machine are asked directly, by the clients of all our tools."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx
import pytest
import requests

from tasks.project import variables

DEAD = "http://127.0.0.1:9"
HERE = (
    "http://127.0.0.1:5000",
    "http://localhost:4200/api",
    "http://[::1]:5000",
    "http://0.0.0.0:8000",
    "https://localhost",
)
ELSEWHERE = ("http://mlflow.example:5000", "http://10.0.0.7:5000", "http://128.0.0.1")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "")  # so that what `apply` sets is taken back
    monkeypatch.setenv("NO_PROXY", "")


def proxied(url: str) -> tuple[bool, bool, bool]:
    """Return whether requests (MLflow), httpx (Prefect) and urllib (websockets) would ask a proxy for an address."""
    with httpx.Client() as client:
        direct = client._transport_for_url(httpx.URL(url)) is client._transport
    mlflow = bool(requests.utils.get_environ_proxies(url))
    return mlflow, not direct, not proxy_bypass(urlsplit(url).netloc.replace("[::1]", "::1"))


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"])
def test_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Reported as gradio-app/gradio#4046 and hiyouga/LlamaFactory#7332."""
    monkeypatch.setenv(variable, DEAD)
    monkeypatch.setenv("https_proxy" if variable != "https_proxy" else "http_proxy", DEAD)
    assert any(any(proxied(url)) for url in HERE)
    variables.apply()
    assert {url: proxied(url) for url in HERE} == dict.fromkeys(HERE, (False, False, False))
    assert not requests.utils.get_environ_proxies("http://127.0.0.2:5000")
    before = dict(os.environ)
    variables.apply()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("lower", "upper", "wanted"),
    [
        ("", "", ("", "")),
        ("corp.example", "", ("corp.example,", "corp.example,")),
        ("", "corp.example , .x", ("corp.example,.x,", "corp.example,.x,")),
        ("a", "b", ("a,", "b,")),
    ],
)
def test_exceptions_of_the_user_stay(
    monkeypatch: pytest.MonkeyPatch, lower: str, upper: str, wanted: tuple[str, str]
) -> None:
    monkeypatch.setenv("no_proxy", lower)
    monkeypatch.setenv("NO_PROXY", upper)
    monkeypatch.setenv("http_proxy", DEAD)
    variables.apply()
    ours = "localhost,127.0.0.1,::1,0.0.0.0,127.0.0.0/8"
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (wanted[0] + ours, wanted[1] + ours)
    assert {proxied(url)[0] for url in ELSEWHERE} == {True}
    assert {proxied(url)[1] for url in ELSEWHERE} == {True}


def test_no_proxy_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib and requests know `*` only where it stands alone."""
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("NO_PROXY", "*")
    variables.apply()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("*", "*")
    assert {proxied(url) for url in (*HERE, *ELSEWHERE)} == {(False, False, False)}


def test_without_a_proxy_nothing_is_set() -> None:
    variables.apply()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("", "")
