"""Keep the results of a preset in the repository: `python -m tasks.publish NAME PROJECT [PROJECT ...]`.

NAME is `default` (params.yaml) or the stem of a file in `presets/`. Each PROJECT is a copy of this project in which the
pipeline has run with these settings and its own `base.seed`; one is enough. What is not complete, out of date or of
other settings is refused. It writes `docs/results/NAME/summary.json` and `results.md`, and the tables of this preset in
README.md and docs/*.md, between `<!-- results:NAME -->` and `<!-- /results -->`. Without a PROJECT the tables are written
anew from summary.json. Equal runs give equal bytes. It is no stage.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from qlass.errors import QlassError, SettingsError
from qlass.jsonl import replacing
from tasks.project import paths
from tasks.project.repetitions import projects_of_preset
from tasks.results import documents, kept, pages
from tasks.results.collect import collect
from tasks.running import console, runner

logger = logging.getLogger(__name__)

DEFAULT = "default"


def preset_file(name: str) -> Path:
    """Return the settings of a preset.

    Raises:
        SettingsError: there is none of this name.
    """
    files = {DEFAULT: paths.PARAMS, **{path.stem: path for path in sorted(paths.PRESETS.glob("*.yaml"))}}
    if name not in files:
        raise SettingsError(f"NAME: found {name!r}; allowed: {', '.join(files)}; name a preset")
    return files[name]


def publish(name: str, projects: Sequence[Path]) -> list[Path]:
    """Keep the results of a preset, or write its tables anew where no project is given; return the files written.

    Raises:
        QlassError: a project does not have a complete run of the preset, or a document's markers are wrong.
    """
    file = preset_file(name)
    found = collect(name, projects_of_preset(projects, file)) if projects else kept.read(documents.summary_of(name))
    texts = {path: documents.read_text(path) for path in documents.documents(Path())}
    new = {path: documents.refreshed(text, path, found) for path, text in texts.items()}
    if not any(preset == name for path, text in texts.items() for preset, *_ in documents.marked(text, path)):
        logger.warning("publish=%s shown=0: no document has <!-- results:%s --> and <!-- /results -->", name, name)
    kept.write(documents.summary_of(name), found)
    written = {documents.page_of(name): pages.page(found)}
    written |= {path: text for path, text in new.items() if text != texts[path]}
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8"))
    return [documents.summary_of(name), *written]


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the results; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.publish", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"{DEFAULT}, or the stem of a file in {paths.PRESETS}/")
    parser.add_argument("projects", metavar="PROJECT", nargs="*", type=Path)
    asked = parser.parse_args(arguments)
    try:
        written = publish(asked.name, asked.projects)
    except QlassError as error:
        return runner.report(error)
    console.say("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
