"""Files of records: JSON Lines with a header line, written atomically and read strictly.

The first line is `{"record": "Trajectory", "schema": 1, "count": N}`. A file is complete or absent: it is written
under a temporary name beside its own and renamed at the end. A reader never skips what it does not understand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from qlass.errors import DataError, StorageError
from qlass.records import SCHEMA, Message, Record
from qlass.validation import problems

R = TypeVar("R", bound=Record | Message)

_COUNT_WIDTH = 12
"""Digits kept free for the count, which is known only after the last record; JSON allows spaces before a number."""
_SHOWN = 3
"""Problems of one record that an error names; a record of another kind has hundreds."""


def to_json(record: Record) -> dict[str, Any]:
    """Return the record as a JSON object; tuples and messages become lists."""
    value: dict[str, Any] = json.loads(_dumps(record))
    return value


def from_json(kind: type[R], value: object) -> R:
    """Return the record that `to_json` made `value` of.

    Raises:
        DataError: a field is missing, unknown, or of another type than declared.
    """
    return _decode(kind, json.dumps(value).encode("ascii"), "")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; when the block ends well, that file becomes `path` in one step.

    After any error `path` is as it was. The rename replaces a link instead of writing through it, so a file that DVC
    linked from its cache is never changed in place.

    Raises:
        StorageError: the operating system refused (disk full, no permission, ...).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            # Without this, a power cut soon after the rename can leave a complete name with missing contents.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot write: {error}; the old file, if any, is unchanged") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes.

    Raises:
        DataError: there is no such file.
        StorageError: the operating system could not open or read it.
    """
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that writes it") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error}") from error


def write_records(path: Path, records: Iterable[R], kind: type[R]) -> int:
    """Write records, one line each, holding one in memory at a time; return how many.

    Raises:
        DataError: a record is not a `kind` or holds a number that JSON does not have (NaN, infinity).
        StorageError: the file could not be written; the old one is intact.
    """
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(kind, count))
        for count, record in enumerate(records, start=1):
            if type(record) is not kind:
                raise DataError(f"{path}: record {count} is a {type(record).__name__}, expected {kind.__name__}")
            file.write(_line(path, count, record))
        file.seek(0)
        file.write(_header(kind, count))
    return count


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Read a whole file; errors as `iter_records`."""
    return list(iter_records(path, kind))


def iter_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a file; that none is missing is known, and checked, after the last one.

    Raises:
        DataError: the file is absent, empty, truncated or corrupt, or holds other records; names file and line.
        StorageError: the operating system could not read it.
    """
    with opened(path) as file:
        expected = _read_header(path, file.readline(), kind)
        count = 0
        for count, line in enumerate(file, start=1):
            yield _read_line(path, count + 1, line, kind)
    if count != expected:
        raise DataError(f"{path}: {count} records, but the header promises {expected}; make the file again")


def write_json(path: Path, value: object) -> None:
    """Write one JSON value with sorted keys, two spaces and a newline at the end; atomic.

    Raises:
        DataError: the value holds something that JSON does not have.
        StorageError: the file could not be written; the old one is intact.
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be written as JSON: {error}") from error
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="ascii")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        DataError: the file is absent or not JSON.
        StorageError: the operating system could not read it.
    """
    with opened(path) as file:
        return _parse(str(path), file.read())


def _header(kind: type, count: int) -> bytes:
    """Return the first line; its length does not depend on the count."""
    return f'{{"record": "{kind.__name__}", "schema": {SCHEMA}, "count": {count:>{_COUNT_WIDTH}}}}\n'.encode("ascii")


def _line(path: Path, number: int, record: Record | Message) -> bytes:
    """Return one record as a line of ASCII.

    Half of a surrogate pair is no Unicode text, and pydantic does not read it; so it is not written either.
    """
    try:
        text = _dumps(record, allow_nan=False)
        if "\\ud" in text:
            pydantic_core.from_json(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: record {number} cannot be written as JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def _dumps(record: Record | Message, *, allow_nan: bool = True) -> str:
    """Return the record as JSON text; json itself writes tuples as lists and asks for the fields of the records."""
    return json.dumps(record, default=_fields, allow_nan=allow_nan)


def _fields(value: object) -> dict[str, Any]:
    """Return the fields of a record; the values are left to json."""
    if not isinstance(value, Record):
        raise TypeError(f"found a {type(value).__name__}, which JSON does not have")
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _read_header(path: Path, line: bytes, kind: type) -> int:
    """Return the promised count."""
    if not line:
        raise DataError(f"{path}: the file is empty; delete it and make it again")
    header = _parse(f"{path}:1", line)
    wanted = {"record": kind.__name__, "schema": SCHEMA}
    if not isinstance(header, dict) or header.keys() != {"record", "schema", "count"}:
        raise DataError(f"{path}:1: not a header of a file of records; expected the keys record, schema and count")
    found = {key: header[key] for key in wanted}
    if found != wanted:
        raise DataError(f"{path}:1: holds {found}, expected {wanted}; make the file again with this version of qlass")
    if type(header["count"]) is not int or header["count"] < 0:
        raise DataError(f"{path}:1: count={header['count']!r} is not a number of records")
    return header["count"]


def _read_line(path: Path, number: int, line: bytes, kind: type[R]) -> R:
    """Return the record in line `number` (the header is line 1)."""
    if not line.endswith(b"\n"):
        raise DataError(f"{path}:{number}: the last line is cut off; delete the file and make it again")
    return _decode(kind, line[:-1], f"{path}:{number}: ")


def _decode(kind: type[R], text: bytes, where: str) -> R:
    """Return the record in a JSON text; `where` starts the message of an error."""
    target: Any = kind  # mypy does not see that `type[R]` is hashable
    reader: TypeAdapter[R] = _reader(target)
    try:
        return reader.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = str(first["ctx"]["error"]).replace("at line 1 column", "at column")
            raise DataError(f"{where}not JSON: {reason}; the file is damaged, make it again") from None
        found = problems(error, reader)
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DataError(f"{where}not a {kind.__name__}: {'; '.join(map(str, found[:_SHOWN]))}{more}") from None


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    """Build the reader of a kind of records; once, because that takes longer than reading a record."""
    return TypeAdapter(kind)


def _parse(where: str, text: bytes) -> Any:
    """Return the JSON value in `text`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; the file is damaged, make it again") from None


def _refuse(constant: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's JSON reader would accept."""
    raise ValueError(f"{constant} is not a JSON number")
