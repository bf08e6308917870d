"""The page as a document: well formed, nothing loaded from outside, nothing unescaped, calm about gaps."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from qlass.jsonl import read_records, write_records
from qlass.records import Episode, ExplorationTree
from qlass.report import EnvInputs, ReportInputs, ReportSettings, build_report

QUICK = ReportSettings(bootstrap=50)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting while parsing; keeps attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, *names):
        return [value for _, name, value in self.attributes if name in names]


@pytest.fixture
def built(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=6, trees=4)
    build_report(inputs, QUICK)
    return inputs


def page(inputs):
    return (inputs.out / "index.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_its_links_lead_somewhere(built):
    parsed = Page(page(built))
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    inside = [value[1:] for value in parsed.values("href") if value.startswith("#")]
    assert inside
    assert set(inside) <= set(ids)


def test_page_loads_nothing_from_outside(built):
    html = page(built)
    parsed = Page(html)
    loads = [(tag, value) for tag, name, value in parsed.attributes if name in ("src", "srcset", "data", "action")]
    assert loads == []
    assert [value for tag, name, value in parsed.attributes if tag == "link" and name == "href"] == ["data:,"]
    assert [v for v in parsed.values("href") if re.match(r"(?i)\s*(https?:|//|javascript:)", v)] == []
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_text_from_the_environment_is_escaped(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=1, trees=1)
    path = tmp_path / "nasty.jsonl"
    good = samples.episode("qlass", "test_seen", 0, 0)
    bad = replace(samples.episode("sft", "test_seen", 0, 0), outcome=0.0)
    nasty = replace(
        good,
        outcome=1.0,
        observation=samples.NASTY,
        steps=(replace(good.steps[0], action="<b>go</b>", thought="a < b & c", observation="\x00<i>"),),
        candidates=((("<b>go</b>", 0.7), ("</ul><script>1</script>", 0.2)),),
    )
    write_records(path, [nasty], Episode)
    write_records(tmp_path / "sft.jsonl", [bad], Episode)
    env = replace(
        inputs.envs[0],
        label="A & <B>",
        episodes={("qlass", "test_seen"): path, ("sft", "test_seen"): tmp_path / "sft.jsonl"},
    )
    build_report(replace(inputs, envs=(env,), facts=(("<k>", "\"v'\ud800"),)), QUICK)
    html = page(inputs)
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "<b>go</b>" not in html
    assert "&lt;b&gt;go&lt;/b&gt;" in html
    assert "&lt;script&gt;1&lt;/script&gt;" in html
    assert "\x00" not in html
    assert "A &amp; &lt;B&gt;" in html
    Page(html)


def test_a_branch_that_was_refused_to_its_end_says_so(samples, tmp_path):
    """Such a branch ends before the step limit (`explore.max_invalid`), and was called one that reached it."""
    inputs = samples.write_samples(tmp_path, tasks=1, trees=1)
    (tree,) = read_records(inputs.envs[0].trees, ExplorationTree)
    ends = [
        replace(node, step=replace(node.step, valid=False)) if node.step.truncated else node for node in tree.nodes
    ]
    assert ends != list(tree.nodes)
    build_report(inputs, QUICK)
    assert "✗ step limit" in page(inputs)
    assert "✗ refused to the end" not in page(inputs)
    write_records(inputs.envs[0].trees, [replace(tree, nodes=tuple(ends))], ExplorationTree)
    build_report(inputs, QUICK)
    assert "✗ refused to the end" in page(inputs)


def test_the_caption_of_the_qnets_loss_says_what_is_in_it(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=1, trees=1)
    plain, joint = "squared error of Q-values", "squared error of Q-values + 0.3 × cross-entropy of the observations"
    for env, words in ((inputs.envs[0], plain), (replace(inputs.envs[0], qnet_loss_words=joint), joint)):
        build_report(replace(inputs, envs=(env,)), QUICK)
        assert f"QNet: {words}; the thick line is a running mean." in page(inputs)
        assert ("cross-entropy of the observations" in page(inputs)) == (words == joint)


def test_every_policy_that_was_trained_has_its_loss_curve(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=1, trees=1)
    (env,) = inputs.envs
    curves = {**env.policy_loss, "rft": env.policy_loss["sft"], "ppo": tmp_path / "ppo" / "loss.csv"}
    build_report(replace(inputs, envs=(replace(env, policy_loss=curves),)), QUICK)
    html = page(inputs)
    captions = re.findall(r"(\w+): loss on assistant tokens; the thick line is a running mean", html)
    assert captions == ["SFT", "RFT"]  # nothing was trained for the base policy, and the other file is not there
    assert re.search(r"PPO loss: [^<]*/ppo/loss\.csv does not exist", html)
    assert "Base loss" not in html


def test_notes_stand_under_the_names_of_their_rows(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=1, trees=1)
    other = replace(inputs.envs[0], name="corridor", label="Corridor", method_notes={"qlass": "M = 2 here"})
    build_report(replace(inputs, envs=(*inputs.envs, other)), QUICK)
    html = page(inputs)
    assert [html.count(note) for note in ("M = 4 proposals per step", "N = 6, picked by the QNet", "M = 2 here")] == [
        1,
        1,
        1,
    ]
    build_report(replace(inputs, envs=(replace(inputs.envs[0], method_notes={}),)), QUICK)
    assert "M = 4 proposals per step" not in page(inputs)


def test_everything_may_be_missing(tmp_path):
    env = EnvInputs(
        name="alfworld",
        label="Toy world",
        episodes={("qlass", "test_seen"): tmp_path / "qlass-test_seen" / "episodes.jsonl"},
        trees=tmp_path / "trees.jsonl",
    )
    inputs = ReportInputs(tmp_path / "report", (env,))
    build_report(inputs, QUICK)
    html = page(inputs)
    Page(html)
    assert "Nothing has been evaluated on Toy world yet." in html
    assert "episodes.jsonl does not exist" in html
    assert "trees.jsonl does not exist" in html
    assert "QNet calibration: not part of this run." in html
    assert str(tmp_path) not in html
    assert json.loads((inputs.out / "summary.json").read_text()) == {"rows": [], "metrics": {}}


def test_two_environments_share_a_page(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=2, trees=1)
    other = EnvInputs("corridor", "Corridor", {})
    build_report(replace(inputs, envs=(*inputs.envs, other)), QUICK)
    html = page(inputs)
    ids = Page(html).values("id")
    assert len(ids) == len(set(ids))
    assert {"alfworld", "corridor"} <= set(ids)


def test_rows_that_nothing_knows_come_last_in_the_order_of_the_run(built, tmp_path):
    env = built.envs[0]
    known = {key: path for key, path in env.episodes.items() if key[0] in ("sft", "qlass")}
    new = {}
    for row in ("zeta", "alpha"):
        for split in ("test_seen", "test_unseen"):
            new[row, split] = tmp_path / f"{row}-{split}.jsonl"
            episodes = read_records(env.episodes["qlass", split], Episode)
            write_records(new[row, split], [replace(episode, method=row) for episode in episodes], Episode)
    build_report(replace(built, envs=(replace(env, episodes={**new, **known}),)), QUICK)
    rows = json.loads((built.out / "summary.json").read_text())["rows"]
    for split in ("test_seen", "test_unseen", "pooled"):
        assert [row["method"] for row in rows if row["split"] == split] == ["sft", "qlass", "zeta", "alpha"]
    html = page(built)
    heads = re.findall(r'<th scope="col"><span class="(m-\w+)">([^<]+)</span>', html)
    assert heads[:4] == [("m-sft", "SFT"), ("m-qlass", "QLASS"), ("m-other", "zeta"), ("m-other", "alpha")]
    marks = re.findall(r'<(\w+) [^>]*class="mark m-other"', html)
    assert marks
    assert set(marks) == {"polygon"}  # the circle is QLASS
