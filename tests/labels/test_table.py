"""Labels as Parquet: exact, reproducible, strict."""

import os

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError, StorageError
from qlass.labels import iter_labels, labels_to_parquet, read_labels
from qlass.records import QLabel

LABEL = QLabel("corridor/train/00000", 0, -1, 1, 0.81, 1.0, 0.5, 1.0, 3)
OTHER = QLabel("corridor/train/00001", 1, 0, 2, 0.1 + 0.2, 0.0, 1 / 3, 0.0, 1)

numbers = st.floats(allow_nan=False)
counts = st.integers(-1, 2**31 - 1)
q_labels = st.builds(QLabel, st.text(), counts, counts, counts, numbers, numbers, numbers, numbers, counts)


@given(st.lists(q_labels, max_size=5))
def test_labels_survive(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    assert labels_to_parquet(path, iter(labels)) == len(labels)
    assert read_labels(path) == labels


def test_equal_labels_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        labels_to_parquet(tmp_path / name, [LABEL, OTHER])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_more_rows_than_one_group(tmp_path):
    path = tmp_path / "labels.parquet"
    n = 66_000
    assert labels_to_parquet(path, (QLabel("t", i, -1, 1, 0.0, 0.0, 0.0, 0.0, 1) for i in range(n))) == n
    assert pq.ParquetFile(path).num_row_groups == 2
    assert [label.node_id for label in iter_labels(path)] == list(range(n))


def test_others_can_read_it(tmp_path):
    path = tmp_path / "labels.parquet"
    labels_to_parquet(path, [LABEL, OTHER])
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == list(QLabel.__slots__)
    assert frame["q"].tolist() == [LABEL.q, OTHER.q]


@pytest.mark.parametrize("keep", [0, 3, 200, -5])
def test_truncated(tmp_path, keep):
    path = tmp_path / "labels.parquet"
    labels_to_parquet(path, [LABEL, OTHER])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"labels\.parquet: damaged or no Parquet file"):
        read_labels(path)


@pytest.mark.parametrize("position", [10, 30, 100, 170, -1])
def test_a_changed_byte_is_noticed(tmp_path, position):
    path = tmp_path / "labels.parquet"
    labels_to_parquet(path, [LABEL, OTHER])
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.parquet"):
        read_labels(path)


def test_another_table(tmp_path):
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"q": [0.5]}), path)
    with pytest.raises(DataError, match=r"not a table of QLabel, schema 1: \['q'\]"):
        read_labels(path)
    labels_to_parquet(path, [LABEL])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"record": "QLabel", "schema": "0"}), path)
    with pytest.raises(DataError, match="schema 1"):
        read_labels(path)


def test_absent_and_unreadable(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "labels.parquet")
    with pytest.raises(StorageError, match="cannot read"):
        read_labels(tmp_path)


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.parquet"
    labels_to_parquet(path, [LABEL])
    with pytest.raises(DataError, match="corridor/train/00000"):
        labels_to_parquet(path, [LABEL, QLabel("t", "one", -1, 1, 0.0, 0.0, 0.0, 0.0, 1)])
    assert read_labels(path) == [LABEL]
    assert os.listdir(tmp_path) == ["labels.parquet"]
