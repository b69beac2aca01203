"""The report in a browser: nothing is wider than the screen of a telephone, and no page of a print is empty."""

import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
import yaml
from test_report import write_run
from test_report_progress import add_evaluations, growing

from fpl_fast.trainer.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

# Elements that stick out of the page, but for those in a box that scrolls by itself.
MEASURE = """<!doctype html><iframe id=page src="report.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id=found></pre><script>
page.onload = () => {{
  const doc = page.contentDocument, root = doc.documentElement, out = [];
  const scrolls = e => e && (['auto', 'scroll'].includes(doc.defaultView.getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  for (const e of doc.body.querySelectorAll('*')) {{
    const box = e.getBoundingClientRect();
    if ((box.right > root.clientWidth + 1 || box.left < -1) && !scrolls(e.parentElement))
      out.push(e.tagName + '.' + (e.className.baseVal ?? e.className) + ' ' + Math.round(box.right));
  }}
  found.textContent = JSON.stringify({{width: root.clientWidth, content: root.scrollWidth, images:
    [...doc.images].filter(i => !i.naturalWidth).length, out}});
}};
</script>"""


def browse(*options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything: long names, compared runs with the same pictures, many settings, 150 classes."""
    parent = tmp_path_factory.mktemp("runs")
    names = ("fpl_cps_cutmix-of-a-study-with-a-long-name-without-spaces-seed0", "supervised", "u2pl")
    runs = [write_run(parent / name, seed=1, sizes=((60, 120), (90, 40))) for name in names]
    for place, run in enumerate(runs):
        config = yaml.safe_load((run / "config.yaml").read_text()) | {"method": {"name": run.name, "weight": place}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        with np.load(run / "samples.npz") as stored:
            np.savez_compressed(run / "samples.npz", **stored, names=["aachen_000000_000019_leftImg8bit" * 2, "b"])
    classes = [f"{'traffic light ' * (1 + index % 2)}{index}" for index in range(150)]
    add_evaluations(runs[0], classes, growing(60, 150))
    return write_report(runs[0], compare=runs[1:])


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_nothing_sticks_out(report, width):
    harness = report.with_name(f"measure-{width}.html")
    harness.write_text(MEASURE.format(width=width))
    page = browse("--virtual-time-budget=10000", "--window-size=1600,1000", "--dump-dom", harness.as_uri())
    found = json.loads(re.search(r"<pre id=\"?found\"?>(.*?)</pre>", page, re.DOTALL)[1])
    assert found["images"] == 0  # none is broken
    assert found["out"] == [] and found["content"] <= found["width"] <= width


def test_no_page_of_a_print_is_empty(report, tmp_path):
    browse("--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}", report.as_uri())
    pdf = (tmp_path / "report.pdf").read_bytes()
    contents = [int(number) for number in re.findall(rb"/Contents (\d+) 0 R", pdf)]
    drawn = []
    for number in contents:
        stream = re.search(rb"\n%d 0 obj.*?stream\r?\n(.*?)endstream" % number, pdf, re.DOTALL)[1]
        drawn.append(len(re.findall(rb"\b(?:Tj|TJ|Do|f)\b", zlib.decompress(stream))))  # text, pictures and areas
    assert 2 <= len(drawn) <= 12 and min(drawn) > 10, drawn
