"""Files of records: exact round trips, strict reading, atomic writing."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
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

GOLDEN = Path(__file__).parent / "labels" / "golden" / "trees.jsonl"

finite = st.floats(allow_nan=False, allow_infinity=False)
any_text = st.text(st.characters(exclude_categories=["Cs"]))  # control characters included; no halves of pairs
counts = st.integers(-(2**70), 2**70)
json_values = st.recursive(
    st.none() | st.booleans() | counts | finite | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def steps(draw):
    ended = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return Step(draw(any_text), draw(any_text), draw(any_text), draw(finite), *ended, valid=draw(st.booleans()))


def tuples(entries):
    return st.lists(entries, max_size=3).map(tuple)


trajectories = st.builds(
    Trajectory, any_text, st.sampled_from(["expert", "explored", "evaluated"]), any_text, tuples(steps()), finite,
    st.booleans(),
)  # fmt: skip
costs = st.builds(Cost, *[counts] * 5)
nodes = st.builds(Node, counts, counts, counts, steps(), st.sampled_from(["expert", "expansion", "rollout"]), finite)
pairs = st.tuples(any_text, finite)
records = st.one_of(
    trajectories,
    st.builds(TaskSpec, *[any_text] * 4, st.dictionaries(any_text, json_values, max_size=3)),
    st.builds(ExplorationTree, any_text, any_text, tuples(nodes), counts, counts, counts, st.booleans(), costs),
    st.builds(
        Episode, any_text, any_text, any_text, counts, finite, st.booleans(), any_text, tuples(steps()), costs,
        any_text, tuples(tuples(pairs)),
    ),
    st.builds(QLabel, any_text, counts, counts, counts, finite, finite, finite, finite, counts),
    st.builds(Proposal, any_text, any_text, any_text, st.booleans(), counts, finite),
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


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(records)
def test_a_record_is_the_line_that_json_makes_of_its_fields(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("line") / "x.jsonl"
    write_records(path, [record], type(record))
    line = path.read_bytes().splitlines(keepends=True)[1]
    assert line == json.dumps(dataclasses.asdict(record)).encode("ascii") + b"\n"
    assert read_records(path, type(record)) == [record]
    assert from_json(type(record), to_json(record)) == record


def test_a_file_of_an_earlier_version_keeps_its_bytes(tmp_path):
    write_records(tmp_path / "trees.jsonl", iter_records(GOLDEN, ExplorationTree), ExplorationTree)
    assert (tmp_path / "trees.jsonl").read_bytes() == GOLDEN.read_bytes()


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
    "missing field": (
        HEADER + LINE + LINE.replace(', "env_steps": 5', ""),
        r"x.jsonl:3: not a Cost: env_steps: missing, expected a whole number$",
    ),
    "unknown field": (
        HEADER + LINE + LINE.replace("}", ', "steps": 5}'),
        r"x.jsonl:3: not a Cost: steps: unknown, expected one of generated_tokens, .*, env_steps$",
    ),
    "wrong type": (
        HEADER + LINE + LINE.replace("5", '"5"'),
        r"x.jsonl:3: not a Cost: env_steps: found '5' \(text\), expected a whole number$",
    ),
    "NaN": (
        HEADER + LINE + LINE.replace("5", "NaN"),
        r"x.jsonl:3: not a Cost: env_steps: found nan, expected a whole number$",
    ),
    "a list": (
        HEADER + LINE + "[1, 2]\n",
        r"x.jsonl:3: not a Cost: found \[1, 2\], expected a mapping with the keys generated_tokens, prompt_tokens",
    ),
    "other fields": (
        HEADER + LINE + '{"a": 1}\n',
        r"x.jsonl:3: not a Cost: generated_tokens: missing, .*policy_calls: missing, expected a whole number; "
        r"and 3 more$",
    ),
    "deep nesting": (HEADER + LINE + "[" * 200_000 + "\n", r"x.jsonl:3: not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_named(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_records(path, Cost)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b'"\xff"', b'"\xed\xa0\x80"', rb'"\ud800"', rb'"\udc00\ud800"', rb'"\ud83d\u0041"'],
    ids=["start", "UTF-8", "UTF-8 half a pair", "half a pair", "turned pair", "pair cut off"],
)  # fmt: skip
def test_bytes_that_are_no_text(tmp_path, text):
    write_records(tmp_path / "x.jsonl", [STEP], Step)
    content = (tmp_path / "x.jsonl").read_bytes()
    (tmp_path / "x.jsonl").write_bytes(content.replace(b'"take lamp"', text))
    with pytest.raises(DataError, match=r"x.jsonl:2: not JSON: .* at column \d+; the file is damaged, make it again$"):
        read_records(tmp_path / "x.jsonl", Step)


def test_text_with_a_backslash_is_no_half_of_a_pair(tmp_path):
    spoken = dataclasses.replace(STEP, action="\\ud800 \U0001f600")
    write_records(tmp_path / "x.jsonl", [spoken], Step)
    assert read_records(tmp_path / "x.jsonl", Step) == [spoken]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_are_finite(tmp_path, number):
    path = tmp_path / "x.jsonl"
    write_records(path, [STEP], Step)
    path.write_text(path.read_text().replace("0.0", number))
    with pytest.raises(DataError, match=r"x.jsonl:2: not a Step: reward: found .*, expected a number$"):
        read_records(path, Step)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_inside_a_key_are_finite(tmp_path, number):
    path = tmp_path / "x.jsonl"
    write_records(path, [SPEC], TaskSpec)
    path.write_text(path.read_text().replace("null", number))
    with pytest.raises(DataError, match=r"x.jsonl:2: not a TaskSpec: key: found .*, expected a mapping with finite"):
        read_records(path, TaskSpec)


@pytest.mark.parametrize(
    ("record", "path", "expected"),
    [
        (LAST, ("valid",), "valid: missing, expected true or false"),
        (TREE, ("nodes", 0, "logprob"), r"nodes\[0\].logprob: missing, expected a number"),
        (TREE, ("nodes", 0, "step", "valid"), r"nodes\[0\].step.valid: missing, expected true or false"),
        (TREE, ("cost", "env_steps"), "cost.env_steps: missing, expected a whole number"),
        (EPISODE, ("error",), "error: missing, expected text"),
        (EPISODE, ("candidates",), "candidates: missing, expected a list, each a list, each a list of 2 values"),
    ],
)
def test_a_field_with_a_default_must_be_there(record, path, expected):
    content = place = to_json(record)
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    with pytest.raises(DataError, match=f"^not a {type(record).__name__}: {expected}$"):
        from_json(type(record), content)


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
        (("steps", 1, "reward"), "high", r"steps\[1\]\.reward: found 'high' \(text\), expected a number"),
        (("steps", 0, "valid"), 1, r"steps\[0\]\.valid: found 1, expected true or false"),
        (
            ("steps", 0),
            None,
            r"steps\[0\]: found null, expected a mapping with the keys thought, action, observation, ",
        ),
        (
            ("steps",),
            {"0": 1},
            r"steps: found {'0': 1}, expected a list, each a mapping with the keys thought, action",
        ),
        (("source",), "copied", r"source: found 'copied' \(text\), expected one of expert, explored, evaluated$"),
        (("outcome",), True, r"outcome: found true, expected a number$"),
        (("observation",), None, r"observation: found null, expected text$"),
        (("observation",), ["x" * 99], r"observation: found \['x{55}\.\.\., expected text$"),
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


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["go"], r"\[0\]\[1\]: missing, expected a number"),
        (["go", 0.5, 1], r"\[0\]: found \['go', 0.5, 1\], expected a list of 2 values"),
        ("go", r"\[0\]: found 'go' \(text\), expected a list of 2 values"),
        (["go", "0.5"], r"\[0\]\[1\]: found '0.5' \(text\), expected a number"),
    ],
)
def test_pairs_have_exactly_two_parts(pair, message):
    record = to_json(EPISODE)
    record["candidates"][0][0] = pair
    with pytest.raises(DataError, match=rf"candidates\[0\]{message}$"):
        from_json(Episode, record)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (["user"], r"\[1\]: missing, expected text"),
        (["user", "a", "b"], r"found \['user', 'a', 'b'\], expected a list of 2 values"),
        (["user", 3], r"\[1\]: found 3, expected text"),
        (["robot", "a"], r"\[0\]: found 'robot' \(text\), expected one of system, user, assistant"),
        ("user", r"found 'user' \(text\), expected a list of 2 values"),
    ],
)
def test_a_message_has_exactly_two_parts(message, problem):
    with pytest.raises(DataError, match=f"^not a Message: {problem}$"):
        from_json(Message, message)


def test_integers_are_read_as_floats():
    record = to_json(STEP) | {"reward": 1}
    assert isinstance(from_json(Step, record).reward, float)


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
        (
            Step("", {"go"}, "", 0.0, False, False),
            "record 2 cannot be written as JSON: found a set, which JSON does not",
        ),
        (Step("", "half \ud83d", "", 0.0, False, False), "record 2 cannot be written as JSON: .*hex escape"),
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
