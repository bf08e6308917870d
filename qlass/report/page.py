"""The page: templates, their filters, and what keeps the file self-contained."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qlass.report import paper
from qlass.report.charts import method_class
from qlass.report.colour import q_colour
from qlass.report.headline import INTERVALS_SAY, signed, split_name
from qlass.report.inputs import ReportInputs, ReportSettings
from qlass.report.sections import EnvPage

TEMPLATES = Path(__file__).parent / "templates"

LONG_TEXT = 420
"""Characters of an observation that are shown at once; the rest unfolds."""

COSTS = ("generated_tokens", "prompt_tokens", "policy_calls", "qnet_calls", "env_steps")
"""Costs of the table, in its order; each is a mean per episode."""

# A browser replaces or drops these; models and games can write them.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n"} | {127: "\ufffd"}


def render(pages: Sequence[EnvPage], inputs: ReportInputs, settings: ReportSettings) -> bytes:
    """Return index.html as bytes; equal arguments give equal bytes."""
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            pages=pages,
            inputs=inputs,
            settings=settings,
            level=f"{settings.confidence:.0%}",
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            # Only our own script may run, whatever an observation contains, and nothing may be loaded from anywhere.
            policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{_digest(script)}'",
        )
    )
    # "replace": a lone surrogate is legal for `json.loads` and has no UTF-8 form.
    return html.replace("\r\n", "\n").translate(_CONTROLS).encode("utf-8", errors="replace")


def _digest(script: str) -> str:
    """Return the hash by which a content security policy names a script."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _environment() -> Environment:
    """Return the template engine; everything that is not Markup is escaped, an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters.update(
        from_folder=_from_folder,
        one=lambda value: f"{value:.1f}",
        count=lambda value: f"{value:,.0f}",
        q=lambda value: f"{value:.2f}",
        value=_value,
        signed=signed,
        split_name=split_name,
        method_name=paper.method_name,
        method_class=method_class,
        words=lambda name: name.replace("_", " "),
        tint=lambda value: min(max(round(value), 0), 100),
    )
    scale = ", ".join(q_colour(step / 8) for step in range(9))
    environment.globals.update(
        PAPER_LABEL=paper.LABEL,
        INTERVALS_SAY=INTERVALS_SAY,
        COSTS=COSTS,
        LONG_TEXT=LONG_TEXT,
        Q_SCALE=Markup(scale),
    )
    return environment


def _from_folder(path: Path, folder: Path) -> str:
    """Return the address of a file as a page in `folder` writes it."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _value(value: object) -> str:
    """Write a number of a metrics table: integers in full, other numbers with four significant digits."""
    if isinstance(value, bool | str) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"
