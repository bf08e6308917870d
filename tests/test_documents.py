"""The documents: lines that fit a screen, links that lead somewhere, benchmark figures that are those of their file.

A line has at most 120 characters. Rows of tables (`|` comes first) and lines that are nothing but one link or image may be
longer. Relative links lead to a file of the repository, and anchors to a heading, as GitHub names it.
"""

import json
import re
from pathlib import Path

import pytest

from benchmarks import shares
from benchmarks.rows import Row

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
    "pretrain/README.md",
]
WIDTH = 120
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ALONE = re.compile(r"!?\[[^\]]*\]\([^)]*\)")


def too_long(text):
    """Return the numbers of the lines that are too long."""
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if len(line) > WIDTH)
    return [
        number for number, line in lines if not line.lstrip().startswith("|") and not ALONE.fullmatch(line.strip())
    ]


def anchors(text):
    """Return the anchors of a document's headings; equal headings are numbered."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    before = (names[:place].count(name) for place, name in enumerate(names))
    return [f"{name}-{count}" if count else name for name, count in zip(names, before, strict=True)]


def dead_links(document):
    """Return the relative links of a document that lead nowhere."""
    dead = []
    for target in LINK.findall(FENCED.sub("", document.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if "://" in target or (file.exists() and not anchor):
            continue
        if not file.is_file() or anchor not in anchors(file.read_text(encoding="utf-8")):
            dead.append(target)
    return dead


def test_what_is_found(tmp_path):
    document = tmp_path / "one.md"
    row, alone = f"| {'x' * WIDTH} |", f"![picture]({'x' * WIDTH}.png)"
    text = f"# A `b`, c\n\n{'x' * (WIDTH + 1)}\n{row}\n## A b c\n{'x' * WIDTH}\nsee {alone}\n"
    document.write_text(
        f"{text}[1](#a-b-c) [2](#a-b-c-1) [3](#a-b) [4](one.md#a-b-c) [5](two.md) [6](https://x.y/z#w)\n"
    )
    assert too_long(text + alone) == [3, 7]
    assert dead_links(document) == [f"{'x' * WIDTH}.png", "#a-b", "two.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_fit(name):
    assert too_long((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    assert dead_links(ROOT / name) == []


def test_benchmarks_are_those_of_the_files():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    results = sorted(set(re.findall(r"\(\.\./(benchmarks/results/[^)]+)\)", page)))
    assert results
    files = [json.loads((ROOT / name).read_text(encoding="utf-8")) for name in results]
    rows = [Row(**row) for file in files for row in file["rows"]]
    shown = [row for row in rows if not shares.NAME.fullmatch(row.name)]
    written = [f"| `{row.name}` | {row.ratio:,.2f} | {row.ours:,.1f} | {row.other:,.1f} |" for row in shown]
    assert sorted(written) == sorted(
        line for line in page.splitlines() if re.fullmatch(r"\| `.+` \|( [\d,.]+ \|){3}", line)
    )
    _, _, *plays = shares.table(rows).splitlines()
    assert sorted(plays) == sorted(
        line for line in page.splitlines() if re.fullmatch(r"\| `.+, .+` \|( [\d,.-]+ \|){6}", line)
    )
