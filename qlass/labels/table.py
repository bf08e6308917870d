"""`labels.parquet`: one row per node, columns as the fields of QLabel."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qlass.errors import DataError
from qlass.jsonl import opened, replacing
from qlass.records import SCHEMA, QLabel

_TYPES = {"str": pa.string(), "int": pa.int32(), "float": pa.float64()}
_COLUMNS = pa.schema(
    [pa.field(field.name, _TYPES[str(field.type)], nullable=False) for field in fields(QLabel)],
    metadata={"record": QLabel.__name__, "schema": str(SCHEMA)},
)
_ROWS = 65536
"""Rows that are held in memory at a time, and in one row group of the file."""
_FORMAT: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "write_statistics": False}
"""Checksums find damage that decompresses well; statistics are outside of them, and nobody filters by them."""


def labels_to_parquet(path: Path, labels: Iterable[QLabel]) -> int:
    """Write labels as they come; return how many. Equal labels give equal bytes.

    Raises:
        DataError: a value does not fit its column.
        StorageError: the file could not be written; the old one is intact.
    """
    count, rows = 0, iter(labels)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, _COLUMNS, **_FORMAT) as writer,
    ):
        while group := list(itertools.islice(rows, _ROWS)):
            writer.write_batch(_batch(path, group))
            count += len(group)
    return count


def iter_labels(path: Path) -> Iterator[QLabel]:
    """Yield the labels of a file, in order.

    Raises:
        DataError: the file is absent, damaged, or no table of labels of this version.
        StorageError: the operating system could not read it.
    """
    with opened(path) as file:
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as table:
                _check(path, table.schema_arrow)
                for batch in table.iter_batches(_ROWS):
                    yield from itertools.starmap(QLabel, zip(*(column.to_pylist() for column in batch), strict=True))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # pyarrow gives damage no errno
                raise
            raise DataError(f"{path}: damaged or no Parquet file: {error}; make it again") from error


def read_labels(path: Path) -> list[QLabel]:
    """Read all labels of a file; errors as `iter_labels`."""
    return list(iter_labels(path))


def _batch(path: Path, labels: list[QLabel]) -> pa.RecordBatch:
    """Return rows as columns."""
    try:
        columns = zip(*map(astuple, labels), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _COLUMNS, strict=True)]
        return pa.record_batch(arrays, schema=_COLUMNS)
    except pa.ArrowException as error:
        raise DataError(f"{path}: labels of {labels[0].task_id} to {labels[-1].task_id}: {error}") from error


def _check(path: Path, found: pa.Schema) -> None:
    """Check that a file was written as labels of this schema version."""
    metadata = found.metadata or {}
    ours = all(metadata.get(key) == value for key, value in _COLUMNS.metadata.items())
    if not ours or not found.equals(_COLUMNS, check_metadata=False):
        raise DataError(f"{path}: not a table of {QLabel.__name__}, schema {SCHEMA}: {found.names}; make it again")
