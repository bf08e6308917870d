"""What `base.source` names; the Hub is asked through a cache on disk and through a server that answers as it does."""

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from qlass.errors import Busy, QlassError, SettingsError
from qlass.models.sources import hub_headers, local_folder
from tests.ports import closed_port

COMMIT = "a1" * 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network; the working directory is empty too."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


def test_folders_and_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert local_folder("~/mine", None) == tmp_path / "mine"
    assert local_folder("../mine", None) == Path("../mine")
    assert local_folder("owner/name", COMMIT) is None
    Path("owner").mkdir()
    assert local_folder("owner/name", COMMIT) is None, (
        "a folder of the owner's name is here, but the commit says what is meant"
    )


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("owner/name", None, "base.revision: found None; allowed: the 40 hexadecimal digits of a commit of owner/name"),
        ("owner/name", "main", "or take what `git ls-remote https://huggingface.co/owner/name main` prints"),
        ("owner/name", COMMIT[:7], "base.revision: found 'a1a1a1a'; allowed: the 40 hexadecimal digits"),
        ("owner/name", COMMIT.upper(), "allowed: the 40 hexadecimal digits"),
        ("folder", COMMIT, "base.revision: found 'a1a1"),
        ("folder/nothing", None, "no such folder, nor a model id `owner/name`; there is nothing at "),
        ("models/nothing", None, "relative paths start at the project's folder"),
        ("/nowhere/model", None, "there is nothing at /nowhere/model"),
        ("~nobody-of-this-name/model", None, "no such folder"),
        ("./owner/name", COMMIT, "no such folder"),
        ("", None, "no such folder"),
        ("gpt2", None, "ids have an owner, as in `owner/gpt2`"),
        ("file.gguf", None, "found 'file.gguf', a file; allowed: a folder; allowed: safetensors. GGUF holds"),
        ("file.safetensors", None, "a file; allowed: a folder; set base.source to the folder that holds it, '.'"),
        ("file.zip", None, "unpack it, and set base.source to the folder with config.json"),
        ("models:/qlass/1", None, "`mlflow artifacts download --artifact-uri models:/qlass/1 --dst-path models/NAME`"),
        ("models:/qlass@champion", None, "fetch it from MLflow first"),
        ("runs:/0a1b/model", None, "fetch it from MLflow first"),
        ("s3://bucket/model", None, "copy it into a folder first: `aws s3 sync s3://bucket/model models/NAME`"),
        ("gs://bucket/model", None, "`gcloud storage rsync -r gs://bucket/model models/NAME`"),
        ("https://example.org/model", None, "copy it into a folder first: `dvc get-url https://example.org/model models/NAME`"),
        ("https://huggingface.co/owner/name", None, "write `source: owner/name` and `revision:` its commit, 40 hex"),
        ("https://huggingface.co/owner/name/tree/main", None, "write `source: owner/name` and `revision:` its commit"),
        (f"https://huggingface.co/owner/name/tree/{COMMIT}", None, f"write `source: owner/name` and `revision:` {COMMIT}"),
        ("https://huggingface.co/owner/name.git", None, "write `source: owner/name` and"),
        ("huggingface.co/owner/name", None, "write `source: owner/name` and"),
        ("hf://owner/name", None, "write `source: owner/name` and"),
        (f"hf://owner/name@{COMMIT}", None, f"write `source: owner/name` and `revision:` {COMMIT}"),
        (f"owner/name@{COMMIT}", None, f"write `source: owner/name` and `revision:` {COMMIT}"),
    ],
)  # fmt: skip
def test_what_is_neither(source: str, revision: str | None, message: str) -> None:
    Path("folder").mkdir()
    for name in ("file.gguf", "file.safetensors", "file.zip"):
        Path(name).touch()
    with pytest.raises(SettingsError) as caught:
        local_folder(source, revision)
    assert str(caught.value).startswith("params.yaml: base.")
    assert message in str(caught.value)


def cached(cache: Path, policy: Path, *left_out: str) -> Path:
    """Put a model into the cache as the Hub's library does; return its snapshot."""
    snapshot = cache / "models--owner--name" / "snapshots" / COMMIT
    return Path(shutil.copytree(policy, snapshot, ignore=shutil.ignore_patterns(*left_out)))


def test_a_model_in_the_cache_needs_no_network(cache: Path, policy: Path) -> None:
    snapshot = cached(cache, policy)
    assert hub_headers("owner/name", COMMIT) == snapshot


def test_what_is_not_whole_in_the_cache_is_said(cache: Path, policy: Path) -> None:
    """Before training, which would need the weights."""
    for left_out in ("*", "model.safetensors"):
        cached(cache, policy, left_out)
        with pytest.raises(
            SettingsError, match=r"not whole in the local cache .*HF_HUB_OFFLINE forbids.*`hf download own"
        ):
            hub_headers("owner/name", COMMIT)
        shutil.rmtree(cache)


def test_ids_that_the_hub_does_not_know() -> None:
    with pytest.raises(SettingsError, match=r"owner/na\.\.me at .*: no id of the Hugging Face Hub"):
        hub_headers("owner/na..me", COMMIT)


class Hub(HTTPServer):
    """Answers every question with one status and one error code, as the Hub does."""

    status, code = 200, ""


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        if self.server.code:
            self.send_header("X-Error-Code", self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server on this machine in the place of the Hub."""
    server = Hub(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (401, "RepoNotFound", SettingsError, "the Hub has no such model, or it is private; check the spelling, or set HF_TOKEN"),
        (404, "RepoNotFound", SettingsError, "the Hub has no such model, or it is private"),
        (404, "RevisionNotFound", SettingsError, "the model has no such commit; copy it from the model's page"),
        (403, "GatedRepo", SettingsError, "is gated: .* accept them at https://huggingface.co/owner/name, and set HF_TOKEN"),
        (403, "", SettingsError, "the Hub refuses with 403"),
        (429, "", Busy, "the Hub answers with 429 now"),
        (503, "", Busy, "the Hub answers with 503 now"),
    ],
)  # fmt: skip
def test_refusals_of_the_hub_are_told_apart(
    hub: Hub, status: int, code: str, error: type[QlassError], message: str
) -> None:
    hub.status, hub.code = status, code
    with pytest.raises(error, match=rf"params.yaml: base.source: owner/name at a1a1.*{message}"):
        hub_headers("owner/name", COMMIT)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        Busy, match=r"the Hub cannot be reached \(ConnectError.*check the network, the proxy.*hf download"
    ):
        hub_headers("owner/name", COMMIT)
