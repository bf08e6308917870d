"""The model registry of MLflow, strictly: what it cannot do is an error, because a model that is not registered is lost."""

from __future__ import annotations

import contextlib
import logging
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass.errors import QlassError, StorageError
from qlass.jsonl import read_json
from tasks.experiments import tracking

logger = logging.getLogger(__name__)

SUCCESS = "success.json"
"""What `tasks.dev` measured of a version: an artifact of its run, beside the model, since it can be measured again."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the model.
        version: its number.
        alias: champion, challenger, or empty where a later one took it.
        run_id: the MLflow run that registered it and holds its files.
        tags: where it comes from, as `Registry.add` was told.
    """

    name: str
    version: str
    alias: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """One registered model. Strict: what MLflow cannot do is a StorageError."""

    def __init__(self, name: str, experiment: str, root: Path) -> None:
        """Connect."""
        self.name, self._experiment, self._root = name, experiment, root
        with self._strict("register"):
            self._client = tracking.connect(root)

    def check(self) -> None:
        """Find out, before hours of work, what would keep a version from being registered after it.

        Raises:
            StorageError: the experiment or what the champion needs was deleted; the message says how to mend that.
        """
        with self._strict("register"):
            tracking.experiment_id(self._client, self._experiment, self._root)
        champion = self.champion()
        if champion is not None:
            self._complete(champion)

    def find(self, tags: Mapping[str, str]) -> Version | None:
        """Return the version with all these tags. One whose run did not finish was killed half-made, and is none."""
        with self._strict("read"):
            for found in self._client.search_model_versions(_filter(self.name)):
                known = found.name == self.name and tags.items() <= found.tags.items()
                if known and self._finished(str(found.run_id)):
                    version = self._version(found)
                    if self._has_files(version):
                        return version
                    logger.warning("register=%s version=%s files=gone: it counts no more", self.name, version.version)
        return None

    def champion(self) -> Version | None:
        """Return the version that has the alias `champion`."""
        with self._strict("read"):
            model = _existing(self._client.get_registered_model, self.name)
            version = model and model.aliases.get("champion")
            return self._version(self._client.get_model_version(self.name, version)) if version else None

    def files(self, version: Version, folder: Path) -> Path:
        """Fetch the files of a version into a folder; return the path of the model folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._strict("read"):
            self._complete(version)
            return Path(self._client.download_artifacts(version.run_id, "model", str(folder)))

    def success(self, version: Version) -> dict[str, Any] | None:
        """Return what was last measured of a version on a dev panel, None where nothing was."""
        with self._strict("read"), tempfile.TemporaryDirectory() as folder:
            if SUCCESS not in {item.path for item in self._client.list_artifacts(version.run_id)}:
                return None
            return dict(read_json(Path(self._client.download_artifacts(version.run_id, SUCCESS, folder))))

    def keep_success(self, version: Version, success: Mapping[str, Any]) -> None:
        """Keep what was measured of a version on a dev panel, instead of what was before."""
        with self._strict("write to"):
            self._client.log_dict(version.run_id, dict(success), SUCCESS)

    def add(
        self, folder: Path, alias: str, tags: Mapping[str, str], description: str, success: Mapping[str, Any] | None
    ) -> Version:
        """Upload a folder in a run of its own, make it a version and give it the alias.

        Args:
            folder: the model.
            alias: champion or challenger; the version that has it loses it.
            tags: where it comes from.
            description: its card.
            success: what was measured of it on the dev panel; None for nothing.

        Raises:
            StorageError: MLflow failed. The run says FAILED, no version is left, and all aliases are where they were.
        """
        with self._strict("register"):
            if _existing(self._client.get_registered_model, self.name) is None:
                self._client.create_registered_model(self.name)
            run_tags = {"kind": "register", **tags}
            tracker = tracking.create_run(f"register {self.name}", self._experiment, tags=run_tags, root=self._root)
            run_id, version = str(tracker.run_id), None
            try:
                self._client.log_artifacts(run_id, str(folder), "model")
                if success is not None:
                    self._client.log_dict(run_id, dict(success), SUCCESS)
                source = f"{self._client.get_run(run_id).info.artifact_uri}/model"
                made = self._client.create_model_version(
                    self.name, source, run_id, tags=dict(tags), description=description
                )
                version = str(made.version)
                self._client.set_registered_model_alias(self.name, alias, version)
            except BaseException as error:  # also the signal of a scheduler
                self._withdraw(version)
                tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
                raise
            tracker.finish()  # only now does `find` know the version
            return Version(self.name, version, alias, run_id, dict(tags))

    def _finished(self, run_id: str) -> bool:
        """Say whether a run is there and has come to its end."""
        run = _existing(self._client.get_run, run_id)
        return run is not None and bool(run.info.status == "FINISHED")

    def _has_files(self, version: Version) -> bool:
        """Say whether the model of a version is still among the artifacts of its run."""
        return "model" in {item.path for item in self._client.list_artifacts(version.run_id)}

    def _complete(self, version: Version) -> None:
        """Check that run and files of a version are there.

        Raises:
            StorageError: they were deleted; what to do about it.
        """
        what = f"{version.name} version {version.version}" + (f", the {version.alias}" if version.alias else "")
        uri = tracking.tracking_uri(self._root)
        command = f"MLFLOW_TRACKING_URI={shlex.quote(uri)}"
        forget = f"give the alias to another version, or delete it, on MLflow's page of the model {version.name}"
        run = _existing(self._client.get_run, version.run_id)
        if run is None:
            raise StorageError(f"MLflow at {uri}: {what}: its run {version.run_id} was deleted for good; {forget}")
        if run.info.lifecycle_stage != "active":
            raise StorageError(
                f"MLflow at {uri}: {what}: its run {version.run_id} was deleted; restore it: "
                f"`{command} mlflow runs restore --run-id {version.run_id}`, or {forget}"
            )
        if not self._has_files(version):
            raise StorageError(
                f"MLflow at {uri}: cannot read {what}: there is no model in {run.info.artifact_uri}; bring the "
                f"folder back, or {forget}"
            )

    def _withdraw(self, version: str | None) -> None:
        """Delete a version that was made only half; where even that fails, `find` passes over it."""
        if version is None:
            return
        try:
            self._client.delete_model_version(self.name, version)
        except Exception as error:  # noqa: BLE001  the first error is raised, and says what to do
            logger.warning("register=%s version=%s delete=failed error=%r", self.name, version, error)

    def _version(self, found: Any) -> Version:
        """Return MLflow's version as ours; the search results do not carry aliases."""
        aliases = self._client.get_model_version(self.name, found.version).aliases
        return Version(self.name, str(found.version), next(iter(aliases), ""), str(found.run_id), dict(found.tags))

    @contextlib.contextmanager
    def _strict(self, verb: str) -> Iterator[None]:
        """Turn what MLflow raises into a StorageError; `verb` is what it was to do with the model."""
        try:
            yield
        except QlassError:
            raise
        except Exception as error:
            raise StorageError(
                f"MLflow at {tracking.tracking_uri(self._root)} cannot {verb} {self.name}: {error}; the outputs in data/ "
                "are complete, and no version of the model has changed: run `python -m tasks.register` when it works again"
            ) from error


def _filter(name: str) -> str:
    """Return MLflow's filter for a name, as far as its language, which has no escapes, can say it; all, where it cannot."""
    quotes = [quote for quote in "'\"" if quote not in name]
    return f"name = {quotes[0]}{name}{quotes[0]}" if quotes else ""


def _existing(get: Callable[[str], Any], key: str) -> Any:
    """Return what a method of MLflow's client gets, None for what is not there, or no longer."""
    try:
        return get(key)
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
