"""Files of records: exact round trips, strict reading, atomic writing."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError, StorageError
from qlass.jsonl import from_json, iter_records, read_json, read_records, replacing, to_json, write_json, write_records
from qlass.records import Cost, Episode, ExplorationTree, Message, Node, Proposal, QLabel, Step, TaskSpec, Trajectory

STEP = Step("I see it.", "take lamp", "You take the lamp.", 0.0, False, False)
LAST = Step("", "enter red room", "Done.", 0.5, True, False, valid=True)
TRAJECTORY = Trajectory("corridor/train/00000", "expert", "You are here.", (STEP, LAST), 0.5, False)
NODE = Node(0, -1, 1, LAST, "expansion", -1.25)
TREE = ExplorationTree("corridor/train/00000", "You are here.", (NODE,), 1, 0, 2, False, Cost(generated_tokens=9))
EPISODE = Episode(
    "a", "enter", "qlass", 0, 0.5, True, "o", (STEP,), Cost(qnet_calls=2), "", ((("go east", 0.5), ("go west", -1.0)),)
)
SPEC = TaskSpec("a", "corridor", "train", "enter", {"doors": "- red", "start": 2, "nested": {"list": [1, None]}})

finite = st.floats(allow_nan=False, allow_infinity=False)
any_text = st.text(st.characters())  # surrogates and control characters included


@st.composite
def steps(draw):
    ended = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return Step(draw(any_text), draw(any_text), draw(any_text), draw(finite), *ended, valid=draw(st.booleans()))


trajectories = st.builds(
    Trajectory, any_text, st.sampled_from(["expert", "explored", "evaluated"]), any_text,
    st.lists(steps(), max_size=3).map(tuple), finite, st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [STEP, TRAJECTORY, NODE, TREE, EPISODE, SPEC, Cost(), QLabel("a", 0, -1, 1, 0.9, 1.0, 0.5, 1.0, 3),
     Proposal("Action: go", "", "go", True, 3, -0.5)],
    ids=lambda record: type(record).__name__,
)  # fmt: skip
def test_every_record_survives_json(record):
    text = json.dumps(to_json(record))
    assert from_json(type(record), json.loads(text)) == record


def test_a_message_survives_json():
    assert from_json(Message, json.loads(json.dumps(Message("user", "hello")))) == Message("user", "hello")


@given(st.lists(trajectories, max_size=4))
def test_files_survive_and_are_reproducible(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("round")
    assert write_records(folder / "a.jsonl", iter(records), Trajectory) == len(records)
    assert read_records(folder / "a.jsonl", Trajectory) == records
    write_records(folder / "b.jsonl", read_records(folder / "a.jsonl", Trajectory), Trajectory)
    assert (folder / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()


def test_the_exact_bytes(tmp_path):
    path = tmp_path / "new" / "costs.jsonl"
    write_records(path, [Cost(1, 2, 3, 4, 5)], Cost)
    header = '{"record": "Cost", "schema": 1, "count":            1}\n'
    line = '{"generated_tokens": 1, "prompt_tokens": 2, "policy_calls": 3, "qnet_calls": 4, "env_steps": 5}\n'
    assert path.read_text() == header + line
    assert json.loads(header) == {"record": "Cost", "schema": 1, "count": 1}
    assert os.listdir(path.parent) == ["costs.jsonl"]


LINE = '{"generated_tokens": 1, "prompt_tokens": 2, "policy_calls": 3, "qnet_calls": 4, "env_steps": 5}\n'
HEADER = '{"record": "Cost", "schema": 1, "count": 2}\n'
DAMAGED = {
    "empty file": ("", r"x.jsonl: the file is empty"),
    "no header": (LINE, r"x.jsonl:1: not a header"),
    "header is no object": ("[1]\n", r"x.jsonl:1: not a header"),
    "header is no JSON": ("hello\n", r"x.jsonl:1: not JSON"),
    "other record": (HEADER.replace("Cost", "Node") + LINE * 2, r"x.jsonl:1: holds .*'Node'.*expected .*'Cost'"),
    "other schema": (HEADER.replace("1", "2") + LINE * 2, r"x.jsonl:1: holds .*'schema': 2"),
    "count is text": (HEADER.replace("2", '"2"') + LINE * 2, r"x.jsonl:1: count='2'"),
    "count is true": (HEADER.replace("2", "true") + LINE * 2, r"x.jsonl:1: count=True"),
    "a line is missing": (HEADER + LINE, r"x.jsonl: 1 records, but the header promises 2"),
    "a line too many": (HEADER + LINE * 3, r"x.jsonl: 3 records, but the header promises 2"),
    "last line cut off": (HEADER + LINE + LINE[:-9], r"x.jsonl:3: the last line is cut off"),
    "last newline cut off": (HEADER + LINE + LINE[:-1], r"x.jsonl:3: the last line is cut off"),
    "corrupt line": (HEADER + LINE.replace(":", ";", 1) + LINE, r"x.jsonl:2: not JSON"),
    "blank line": (HEADER + LINE + "\n", r"x.jsonl:3: not JSON"),
    "missing field": (HEADER + LINE + LINE.replace(', "env_steps": 5', ""), r"x.jsonl:3: .*missing fields \['env_steps'\]"),
    "unknown field": (HEADER + LINE + LINE.replace("env_steps", "environment_steps"), r"unknown fields \['environment_steps'\]"),
    "wrong type": (HEADER + LINE + LINE.replace("5", '"5"'), r"x.jsonl:3: not a Cost: env_steps: found '5', expected int"),
    "NaN": (HEADER + LINE + LINE.replace("5", "NaN"), r"x.jsonl:3: not JSON: NaN"),
    "a list": (HEADER + LINE + "[1, 2]\n", r"x.jsonl:3: not a Cost: found \[1, 2\], expected an object"),
    "deep nesting": (HEADER + LINE + "[" * 200_000 + "\n", r"x.jsonl:3: not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_named(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_records(path, Cost)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"x.jsonl:2: not JSON"):
        read_records(path, Cost)


@given(st.data())
def test_no_truncation_goes_unnoticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    write_records(path, [TRAJECTORY, TRAJECTORY], Trajectory)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=r"x.jsonl"):
        read_records(path, Trajectory)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("steps", 1, "reward"), "high", r"steps\[1\]\.reward: found 'high', expected float"),
        (("steps", 0, "valid"), 1, r"steps\[0\]\.valid: found 1, expected bool"),
        (("steps",), {"0": 1}, r"steps: found {'0': 1}, expected a list"),
        (("source",), "copied", r"source: found 'copied', allowed are \['expert'"),
        (("outcome",), True, r"outcome: found True, expected float"),
        (("observation",), None, r"observation: found None, expected str"),
    ],
)
def test_errors_say_where(path, value, message):
    record = json.loads(json.dumps(to_json(TRAJECTORY)))
    place = record
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(DataError, match=f"not a Trajectory: {message}"):
        from_json(Trajectory, record)


@pytest.mark.parametrize("pair", [["go"], ["go", 0.5, 1], "go", ["go", "0.5"]])
def test_pairs_have_exactly_two_parts(pair):
    record = json.loads(json.dumps(to_json(EPISODE)))
    record["candidates"][0][0] = pair
    with pytest.raises(DataError, match=r"candidates\[0\]\[0\]"):
        from_json(Episode, record)


def test_integers_are_read_as_floats():
    record = to_json(STEP) | {"reward": 1}
    assert isinstance(from_json(Step, record).reward, float)


def test_a_type_that_json_cannot_hold_is_a_mistake_in_the_code():
    @dataclass(frozen=True)
    class Bad:
        values: list[int]

    with pytest.raises(TypeError, match="records are made of"):
        from_json(Bad, {"values": [1]})


def test_absent_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "x.jsonl", Cost)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "x.json")


def test_a_folder_in_the_files_place(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_records(tmp_path, Cost)
    with pytest.raises(StorageError, match="cannot write"):
        write_json(tmp_path, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_json(tmp_path / "file" / "below", {})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Cost(), "record 2 is a Cost, expected Step"),
        (Step("", "", "", float("nan"), False, False), "record 2 cannot be written as JSON"),
        (Step("", "", "", 10**5000, False, False), "record 2 cannot be written as JSON"),
    ],
)
def test_a_bad_record_leaves_the_old_file(tmp_path, bad, message):
    path = tmp_path / "x.jsonl"
    write_records(path, [STEP], Step)
    with pytest.raises(DataError, match=message):
        write_records(path, [STEP, bad], Step)
    assert read_records(path, Step) == [STEP]
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_an_error_of_the_producer_leaves_the_old_file(tmp_path):
    def produce():
        yield STEP
        raise ZeroDivisionError

    path = tmp_path / "x.jsonl"
    write_records(path, [STEP], Step)
    with pytest.raises(ZeroDivisionError):
        write_records(path, produce(), Step)
    assert read_records(path, Step) == [STEP]
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_records_are_not_collected(tmp_path):
    path = tmp_path / "x.jsonl"
    write_records(path, (STEP for _ in range(3)), Step)
    with path.open("ab") as file:
        file.write(b"damage\n")
    found = iter_records(path, Step)
    assert [next(found) for _ in range(3)] == [STEP] * 3
    with pytest.raises(DataError, match=r"x.jsonl:5"):
        next(found)


FULL_DISK = """
import resource, sys
from pathlib import Path
from qlass.errors import StorageError
from qlass.jsonl import write_json, write_records
from qlass.records import Cost

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
folder = Path(sys.argv[1])
for write in (
    lambda: write_records(folder / "x.jsonl", (Cost(i) for i in range(1000)), Cost),
    lambda: write_json(folder / "x.json", ["text"] * 1000),
):
    try:
        write()
    except StorageError as error:
        print(error.exit_code, error)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    # A limit on file sizes makes write(2) fail in the middle of a file, as a full disk does.
    write_records(tmp_path / "x.jsonl", [Cost(1)], Cost)
    write_json(tmp_path / "x.json", "old")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    first, second = result.stdout.splitlines()
    assert first.startswith(f"8 {tmp_path}/x.jsonl: cannot write")
    assert second.startswith(f"8 {tmp_path}/x.json: cannot write")
    assert read_records(tmp_path / "x.jsonl", Cost) == [Cost(1)]
    assert read_json(tmp_path / "x.json") == "old"
    assert sorted(os.listdir(tmp_path)) == ["x.json", "x.jsonl"]


def test_json_is_sorted_indented_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "x.json", {"b": [1], "a": 0.5})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 0.5,\n  "b": [\n    1\n  ]\n}\n'
    assert read_json(tmp_path / "x.json") == {"a": 0.5, "b": [1]}


@pytest.mark.parametrize("value", [float("inf"), {1: 2, "1": 3, "a": set()}, Path()])
def test_what_is_no_json_is_refused(tmp_path, value):
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_json(tmp_path / "x.json", value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "NaN", "{} {}"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="x.json: not JSON"):
        read_json(tmp_path / "x.json")


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    # DVC may link an output to its cache; writing through the link would corrupt the cache.
    cache = tmp_path / "cache"
    cache.write_text("cached")
    (tmp_path / "soft").symlink_to(cache)
    (tmp_path / "hard").hardlink_to(cache)
    for name in ("soft", "hard"):
        write_json(tmp_path / name, name)
        assert read_json(tmp_path / name) == name
    assert cache.read_text() == "cached"


def test_the_new_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename works inside one file system only
    assert path.read_text() == "new"
