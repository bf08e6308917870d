"""The model registry of MLflow, strictly: what it cannot do is an error, because a model that is not registered is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass.errors import StorageError
from tasks.experiments import tracking


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model; `alias` is champion, challenger, or empty where a later one took it."""

    name: str
    version: str
    alias: str
    run_id: str


class Registry:
    """One registered model. Strict: what MLflow cannot do is a StorageError."""

    def __init__(self, name: str, experiment: str, root: Path) -> None:
        """Connect, and create the registered model where it is new."""
        self.name, self._experiment, self._root = name, experiment, root
        with self._strict():
            self._client = tracking.connect(root)
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)

    def find(self, tags: Mapping[str, str]) -> Version | None:
        """Return the version with all these tags."""
        with self._strict():
            for found in self._client.search_model_versions(f"name = '{self.name}'"):
                if tags.items() <= found.tags.items() and found.status == "READY":
                    return self._version(found)
        return None

    def champion(self) -> Version | None:
        """Return the version that has the alias `champion`."""
        with self._strict():
            version = self._client.get_registered_model(self.name).aliases.get("champion")
            return self._version(self._client.get_model_version(self.name, version)) if version else None

    def champion_files(self, folder: Path, name: str = "") -> Path:
        """Fetch a file of the champion, or all of it, into a folder; return its path.

        Raises:
            StorageError: there is no champion, or MLflow failed.
        """
        champion = self.champion()
        if champion is None:
            raise StorageError(f"{self.name}: no version has the alias champion")
        with self._strict():
            inside = f"model/{name}".rstrip("/")
            return Path(self._client.download_artifacts(champion.run_id, inside, str(folder)))

    def add(self, folder: Path, alias: str, tags: Mapping[str, str], description: str) -> Version:
        """Upload a folder in a run of its own, make it a version and give it the alias."""
        tracker = tracking.open_run(
            f"register {self.name}", self._experiment, tags={"kind": "register", **tags}, root=self._root
        )
        with self._strict():
            run = self._client.get_run(str(tracker.run_id))
            self._client.log_artifacts(run.info.run_id, str(folder), "model")
            source = f"{run.info.artifact_uri}/model"
            made = self._client.create_model_version(
                self.name, source, run.info.run_id, tags=dict(tags), description=description
            )
            self._client.set_registered_model_alias(self.name, alias, made.version)
            tracker.finish()
            return Version(self.name, str(made.version), alias, str(run.info.run_id))

    def _version(self, found: Any) -> Version:
        """Return MLflow's version as ours; the search results do not carry aliases."""
        aliases = self._client.get_model_version(self.name, found.version).aliases
        return Version(self.name, str(found.version), next(iter(aliases), ""), str(found.run_id))

    @contextlib.contextmanager
    def _strict(self) -> Iterator[None]:
        """Turn what MLflow raises into a StorageError."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            raise StorageError(
                f"MLflow at {tracking.tracking_uri(self._root)} cannot register {self.name}: {error}; the outputs in data/ are "
                "complete, run `python -m tasks.register` when it works again"
            ) from error
