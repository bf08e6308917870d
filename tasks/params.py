"""Print every setting of params.yaml: `python -m tasks.params`, one section `... explore`, one key `... explore.width`.

A terminal gets text in at most 100 columns, a pipe one line per setting with tabs between its fields. `--markdown` prints
tables: `python -m tasks.params --markdown > docs/settings.md`. Unit, allowed values and meaning are read from the
declarations of the sections (`tasks.project.settings`), the value from the file; nothing else knows them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from qlass.errors import QlassError, SettingsError
from qlass.settings import Section
from qlass.validation import Schema, in_words, resolved, unit_of, without_null
from tasks.project.settings import load_all
from tasks.running import console

COLUMNS = (72, 100)
"""Longest line of text, on a narrow terminal and on a wide one (characters)."""
ASIDE = 36
"""Column at which the allowed values of a setting begin."""
HEAD = """\
# Settings

Written by `python -m tasks.params --markdown > docs/settings.md`; a test keeps it so. Every setting of
[params.yaml](../params.yaml) with the value that it has there, which is the default. [Presets](../presets) are whole
files for other scales. `python -m tasks.params explore` prints one section, `... explore.width` one setting.
Settings inside a mapping that is null have no value.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        key: dotted.
        value: in params.yaml, in YAML; empty where a mapping around it is null, or where its own keys follow.
        unit: of a number; empty where it has none.
        allowed: in words.
        meaning: one or more sentences; empty where the declaration has none.
    """

    key: str
    value: str
    unit: str
    allowed: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Group:
    """The settings of one section.

    Attributes:
        key: dotted.
        meaning: one or more sentences; empty where the declaration has none.
        settings: with the keys of mappings inside; may be none.
    """

    key: str
    meaning: str
    settings: tuple[Setting, ...]


def groups(section: type[Section], values: Mapping[str, Any], key: str = "") -> list[Group]:
    """Describe a section.

    Args:
        section: its declaration.
        values: plain values by name; {} describes the declaration alone.
        key: where the section stands; empty for all of params.yaml.

    Returns:
        One group, or those of the sections inside where it has nothing else.
    """
    schema = section.model_json_schema()
    return list(_groups(key, schema, values, schema.get("$defs", {})))


def _groups(key: str, node: Schema, values: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Iterator[Group]:
    inner = {name: resolved(field, definitions) for name, field in node["properties"].items()}
    if not inner or not all(
        _is_section(field) or _is_mapping_of_sections(field, definitions) for field in inner.values()
    ):
        yield Group(key, _one_line(node.get("description", "")), tuple(_settings(key, node, values, definitions)))
        return
    for name, field in inner.items():
        given = values.get(name, {})
        if _is_section(field):
            yield from _groups(_joined(key, name), field, given, definitions)
        else:
            for entry, value in given.items():
                section = resolved(field["additionalProperties"], definitions)
                yield from _groups(f"{_joined(key, name)}.{entry}", section, value, definitions)


def _settings(
    key: str, node: Schema, values: Mapping[str, Any], definitions: Mapping[str, Schema]
) -> Iterator[Setting]:
    """Yield the settings of a section, each followed by those inside."""
    for name, field in node["properties"].items():
        here, section = _joined(key, name), without_null(field, definitions)
        value = "" if name not in values else _in_yaml(values[name])
        allowed, unit = in_words(field, definitions), unit_of(field, definitions)
        setting = Setting(here, value, unit, allowed, _one_line(field.get("description", "")))
        if not _is_section(section):
            yield setting
            continue
        inside = values.get(name) or {}
        yield replace(setting, value="") if inside else setting
        yield from _settings(here, section, inside, definitions)


def _is_section(node: Schema) -> bool:
    return "properties" in node


def _is_mapping_of_sections(node: Schema, definitions: Mapping[str, Schema]) -> bool:
    values = node.get("additionalProperties")
    return isinstance(values, Mapping) and _is_section(resolved(values, definitions))


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _in_yaml(value: Any) -> str:
    """Write a plain value as it may stand in params.yaml, in one line."""
    yaml = YAML()
    yaml.default_flow_style, yaml.width = True, sys.maxsize
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n").strip()


def chosen(found: Sequence[Group], key: str) -> list[Group]:
    """Return the groups and settings at or below a key.

    Raises:
        SettingsError: there is none; names what there is at the place where the key goes wrong.
    """
    kept = [
        group if _within(group.key, key) else replace(group, settings=settings)
        for group in found
        if _within(group.key, key)
        or (settings := tuple(setting for setting in group.settings if _within(setting.key, key)))
    ]
    if kept:
        return kept
    known = [one for group in found for one in (group.key, *(setting.key for setting in group.settings))]
    right, parts = "", key.split(".")
    while any(_within(one, _joined(right, parts[0])) for one in known):
        right = _joined(right, parts.pop(0))
    below = [one.removeprefix(right).lstrip(".").partition(".")[0] for one in known if _within(one, right)]
    allowed = [_joined(right, name) for name in dict.fromkeys(below) if name] or [right]
    raise SettingsError(f"params: found {key!r}; allowed: {', '.join(allowed)}; choose one, or none for all settings")


def _within(key: str, above: str) -> bool:
    return not above or key == above or key.startswith(f"{above}.")


def as_text(found: Sequence[Group], width: int) -> str:
    """Write settings for a terminal.

    Args:
        found: what to write.
        width: of the terminal (characters), as in COLUMNS.
    """
    return "\n".join(line for group in found for line in (*_lines(group, width), ""))


def _lines(group: Group, width: int) -> Iterator[str]:
    yield group.key
    yield from textwrap.wrap(group.meaning, width, initial_indent="  ", subsequent_indent="  ")
    for setting in group.settings:
        name = setting.key.removeprefix(f"{group.key}.")
        head = f"  {name}: {setting.value}".rstrip()
        allowed = f"{setting.allowed} ({setting.unit})" if setting.unit else setting.allowed
        beside = textwrap.wrap(allowed, width - ASIDE, break_on_hyphens=False)
        first = [f"{head:<{ASIDE}}{beside.pop(0)}"] if len(head) < ASIDE else [head]
        yield from ("", *first, *(f"{'':<{ASIDE}}{line}" for line in beside))
        yield from textwrap.wrap(
            setting.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )


def as_table(found: Sequence[Group]) -> str:
    """Write one line per setting, tabs between its fields, after a line with their names."""
    rows = [tuple(field.name for field in fields(Setting))]
    rows += [astuple(setting) for group in found for setting in group.settings]
    return "".join("\t".join(row) + "\n" for row in rows)


def as_markdown(found: Sequence[Group]) -> str:
    """Write one table per section."""
    return "\n".join("\n".join(_table(group)) + "\n" for group in found)


def _table(group: Group) -> Iterator[str]:
    yield from (f"## {group.key}", "", *textwrap.wrap(group.meaning, 120, break_on_hyphens=False))
    if group.settings:
        yield from ("", "| setting | value | unit | allowed | meaning |", "|---|---|---|---|---|")
    for setting in group.settings:
        name, value = f"`{setting.key.removeprefix(f'{group.key}.')}`", f"`{setting.value}`" if setting.value else ""
        row = (name, value, setting.unit, setting.allowed, setting.meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tasks.params", description="Print the settings of params.yaml.")
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="a section or a setting; default: all")
    parser.add_argument("--markdown", action="store_true", help="as tables of Markdown; of all, docs/settings.md")
    arguments = parser.parse_args()
    try:
        settings = load_all()
        found = chosen(groups(type(settings), settings.model_dump(mode="json")), arguments.key)
    except QlassError as error:
        parser.exit(error.exit_code, f"{error}\n")
    if arguments.markdown:
        text = as_markdown(found) if arguments.key else f"{HEAD}\n{as_markdown(found)}"
    elif sys.stdout.isatty():
        narrow, wide = COLUMNS
        text = as_text(found, min(wide, max(narrow, shutil.get_terminal_size().columns)))
    else:
        text = as_table(found)
    console.say(text)


if __name__ == "__main__":
    main()
