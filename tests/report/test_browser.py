"""The page in a real browser: it draws in light and dark, at desktop and phone width, and its script runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qlass.report import ReportSettings, build_report

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


def browse(folder, *arguments):
    """Run the browser once with a profile of its own."""
    profile = folder / "profile"
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, timeout=120, check=True, env=environment)
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout.decode("utf-8", errors="replace")


def test_page_is_drawn(samples, folder):
    inputs = samples.write_samples(folder, tasks=4, trees=3)
    build_report(inputs, ReportSettings(bootstrap=100))
    page = inputs.out / "index.html"
    # A page of ours around it reports what the script and the layout made of the report at the width of a phone.
    probe = folder / "probe.html"
    probe.write_text(
        f"""<iframe src="{page.as_uri()}" width=400 height=3000></iframe><p id=out></p><script>
        onload = () => {{
          const d = document.querySelector('iframe').contentDocument, w = d.documentElement;
          const wide = [...d.querySelectorAll('main *')].filter(e => !e.closest('.scroll')
            && e.getBoundingClientRect().right > 401).map(e => e.tagName + '.' + e.className);
          const right = e => e.getBoundingClientRect().right;
          const forests = [...d.querySelectorAll('svg.chart')].filter(
            e => !e.matches('.plot') && e.textContent.includes('mean outcome reward'));
          const covered = forests.filter(e => Math.max(...[...e.querySelectorAll('.name')].map(right))
            > Math.min(...[...e.querySelectorAll('.grid')].map(right)));
          out.textContent = JSON.stringify({{scroll: w.scrollWidth, wide: wide.length, forests: forests.length,
            covered: covered.length,
            buttons: d.querySelectorAll('.buttons:not([hidden])').length, charts: d.querySelectorAll('svg.chart').length}});
        }};</script>"""
    )
    dom = browse(folder, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom", probe.as_uri())
    found = re.search(r'id="out">(.*?)</p>', dom).group(1)
    assert found == '{"scroll":400,"wide":0,"forests":3,"covered":0,"buttons":1,"charts":10}'


@pytest.mark.parametrize(("blink", "ground"), [("1", "rgb(251, 251, 249)"), ("0", "rgb(19, 21, 25)")])
def test_page_follows_the_colour_scheme(samples, folder, blink, ground):
    inputs = samples.write_samples(folder / blink, tasks=2, trees=1)
    build_report(inputs, ReportSettings(bootstrap=100))
    probe = folder / f"probe{blink}.html"
    probe.write_text(
        f"""<iframe src="{(inputs.out / "index.html").as_uri()}"></iframe><p id=out></p><script>
        onload = () => {{
          out.textContent = getComputedStyle(document.querySelector('iframe').contentDocument.body).backgroundColor;
        }};</script>"""
    )
    scheme = f"--blink-settings=preferredColorScheme={blink}"
    dom = browse(folder, scheme, "--allow-file-access-from-files", "--dump-dom", probe.as_uri())
    assert re.search(r'id="out">(.*?)</p>', dom).group(1) == ground
