"""What `base.source` names: a folder, or a model on the Hugging Face Hub, whose headers are fetched to be checked."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qlass.errors import Busy, ModelMismatch, SettingsError
from qlass.models.files import GGUF, check_files

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_ADDRESS = re.compile(
    r"(?:hf://(?:models/)?|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)"
    r"(?P<name>[\w.-]+/[\w.-]+?)(?:\.git)?/?(?:(?:/(?:tree|blob|resolve|commit)/|@)(?P<revision>[^/?#]+).*)?"
)
_HUB_SUFFIX = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)[@:](?P<revision>[\w.-]+)")
_COPIES = {"s3": "aws s3 sync {source} {folder}", "gs": "gcloud storage rsync -r {source} {folder}"}
_HEADERS = ("*.json", "*.model", "*.txt", "*.jinja")
_FOLDER = "models/NAME"


def local_folder(source: str, revision: str | None) -> Path | None:
    """Return the folder that `base.source` names; None where it names a model on the Hub, by its commit.

    Args:
        source: `base.source`; `~` is this user's home folder.
        revision: `base.revision`.

    Raises:
        SettingsError: it names neither; says what was meant, as far as that can be told, and what to write.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  pathlib's raises for a user who does not exist
    if path.is_dir() and source.strip():
        if revision is not None:
            raise SettingsError(
                f"params.yaml: base.revision: found {revision!r}; allowed: null, because base.source, {source!r}, is a folder "
                "here; set it to null, or rename the folder if a model of the Hugging Face Hub is meant"
            )
        return path
    if path.is_file():
        advice = (
            GGUF if path.suffix == ".gguf" else f"set base.source to the folder that holds it, {str(path.parent)!r}"
        )
        if path.suffix in (".zip", ".tar", ".gz", ".tgz"):
            advice = f"unpack it, and set base.source to the folder with config.json: {_FOLDER}"
        raise SettingsError(f"params.yaml: base.source: found {source!r}, a file; allowed: a folder; {advice}")
    if not _may_be_id(source, revision):
        raise SettingsError(
            f"params.yaml: base.source: found {source!r}: no such folder, nor a model id `owner/name`; {_advice(source, path)}"
        )
    if not COMMIT.fullmatch(revision or ""):
        raise SettingsError(
            f"params.yaml: base.revision: found {revision!r}; allowed: the 40 hexadecimal digits of a commit of "
            f"{source}, because a branch may change under the same name; copy it from the model's page, or take what "
            f"`git ls-remote https://huggingface.co/{source} {revision or 'main'}` prints (if a folder is meant: "
            f"there is none at {path.absolute()})"
        )
    return None


def _may_be_id(source: str, revision: str | None) -> bool:
    """Say whether a text can be `owner/name`; where the owner is a folder here and no commit is given, a folder is meant."""
    if not HUB_ID.fullmatch(source) or source.startswith((".", "~", "models/")):
        return False
    return revision is not None or not Path(source).parent.is_dir()


def _advice(source: str, path: Path) -> str:
    """Say what to write instead."""
    scheme, colon, _ = source.partition("://")
    if found := (_HUB_ADDRESS.fullmatch(source) or _HUB_SUFFIX.fullmatch(source)):
        revision = found["revision"]
        commit = revision if revision and COMMIT.fullmatch(revision) else "its commit, 40 hexadecimal digits"
        return f"write `source: {found['name']}` and `revision:` {commit}"
    if source.startswith(("models:/", "runs:/", "mlflow-artifacts:/")):
        return (
            f"fetch it from MLflow first: `mlflow artifacts download --artifact-uri {source} --dst-path {_FOLDER}`, and set "
            "base.source to the folder in it that has config.json"
        )
    if colon:
        command = _COPIES.get(scheme, "dvc get-url {source} {folder}").format(source=source, folder=_FOLDER)
        return f"copy it into a folder first: `{command}`, and set `source: {_FOLDER}`"
    if re.fullmatch(r"[\w.-]+", source):
        return f"ids have an owner, as in `owner/{source}`; a folder would be {path.absolute()}"
    return f"there is nothing at {path.absolute()} (relative paths start at the project's folder); correct it"


def hub_headers(source: str, revision: str) -> Path:
    """Return a folder with everything of a model on the Hub but its weights: from the local cache, else fetched.

    A model that lies whole in the cache is taken from there, without a network.

    Args:
        source: `owner/name`.
        revision: the commit.

    Raises:
        SettingsError: the Hub has no such model or commit, or does not show it to this user, or must not be asked.
        ModelMismatch: it is no whole model in safetensors.
        Busy: the Hub cannot be reached.
    """
    from huggingface_hub import errors, snapshot_download

    place = f"params.yaml: base.source: {source} at {revision}"
    try:
        cached = Path(snapshot_download(source, revision=revision, local_files_only=True))
        check_files(cached)
    except errors.HFValidationError as error:
        raise SettingsError(f"{place}: no id of the Hugging Face Hub: {error}") from error
    except (errors.LocalEntryNotFoundError, ModelMismatch):
        pass  # not in the cache, or not all of it
    else:
        return cached
    names = _names_on_the_hub(source, revision, place)
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(_HEADERS)))
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(place, source, revision, error) from error
    check_files(folder, names)
    return folder


def _names_on_the_hub(source: str, revision: str, place: str) -> list[str]:
    """Ask the Hub which files a model has; errors as `hub_headers`."""
    from huggingface_hub import HfApi, errors

    try:
        return [sibling.rfilename for sibling in HfApi().model_info(source, revision=revision).siblings or ()]
    except errors.GatedRepoError as error:
        raise SettingsError(
            f"{place}: is gated: its owner gives it to those only who have accepted the terms; accept them at "
            f"https://huggingface.co/{source}, and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SettingsError(f"{place}: the model has no such commit; copy it from the model's page") from error
    except errors.RepositoryNotFoundError as error:
        raise SettingsError(
            f"{place}: the Hub has no such model, or it is private; check the spelling, or set HF_TOKEN to a token "
            f"that may read it (if a folder is meant: there is none at {Path(source).absolute()})"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise SettingsError(
            f"{place}: is not whole in the local cache ({_cache()}), and HF_HUB_OFFLINE forbids to fetch it; unset "
            f"HF_HUB_OFFLINE, or {_elsewhere(source, revision)}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise Busy(f"{place}: the Hub answers with {status} now ({error}); try again later") from error
        raise SettingsError(
            f"{place}: the Hub refuses with {status} ({error}); check HF_TOKEN and HF_ENDPOINT"
        ) from error
    except Exception as error:  # the HTTP client's own classes, and which client it is changes with the Hub's library
        raise _unreachable(place, source, revision, error) from error


def _unreachable(place: str, source: str, revision: str, error: Exception) -> Busy:
    return Busy(
        f"{place}: is not whole in the local cache ({_cache()}), and the Hub cannot be reached "
        f"({type(error).__name__}: {error}); check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, or "
        f"{_elsewhere(source, revision)}"
    )


def _elsewhere(source: str, revision: str) -> str:
    return (
        f"run `hf download {source} --revision {revision}` where there is a network, and bring that cache here (HF_HOME says "
        "where it is)"
    )


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
