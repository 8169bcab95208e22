"""The page of a report: whole, one file, and harmless whatever its texts hold."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from orchestrator.engine.scheduler import RunOptions
from orchestrator.report.page.compact import page_data
from orchestrator.report.page.document import report_document
from orchestrator.report.page.html import ASSETS, SCRIPTS, embedded_json, html_page
from orchestrator.report.page.sources import read_sources
from orchestrator.store.ledger import now_text

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\u2028"\'`${1}'

SEARCH = """
version: 1
name: searching
nodes:
  base: {stage: probe.echo, params: {value: 0.5}}
  search:
    sweep:
      sampler: grid
      objectives: {score.value: maximize}
      space: {score.value: {choice: [1, 2]}, draw.value: {choice: [TEXT, b]}}
    nodes:
      draw: {stage: probe.echo, inputs: {inputs: [base]}}
      score: {stage: probe.echo, inputs: {inputs: [draw]}}
"""


def page_of(workspace, run: str, **options: Any) -> tuple[dict[str, Any], str]:
    document = report_document(read_sources(workspace.store, run, now=now_text()))
    return document, html_page(document, **options)


def data_in(page: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_the_data_and_asks_for_nothing(run_text, workspace):
    document, page = page_of(workspace, run_text(SEARCH).run)
    assert data_in(page) == page_data(document)
    own = page.replace((ASSETS / "echarts.min.js").read_text(), "")
    assert not re.search(r"(?:src|href)=[\"']?(?!#)(?!data:)[a-z/]", own)
    assert "default-src 'none'" in own


def test_images_that_a_model_drew_are_in_the_page_itself(run_text, workspace, monkeypatch):
    """A grid of samples is what one looks at first; a link to a store would be broken wherever the page is sent."""
    grid = b"\x89PNG\r\n\x1a\n" + bytes(16)

    def draws(context):
        from stages.contract import StageResult

        (context.output / "samples.png").write_bytes(grid if context.settings.value else b"<script>no picture</script>")
        return StageResult(metrics={"value": 1, "frechet_distance": 0.25})

    monkeypatch.setattr("stages.probe.echo.echo", draws)
    nodes = "".join(
        f"  {name}: {{stage: probe.echo, params: {{value: {value}}}}}\n" for name, value in (("good", 1), ("odd", 0))
    )
    text = f"version: 1\nname: n\nnodes:\n{nodes}"
    document, page = page_of(workspace, run_text(text).run)
    assert [each["label"] for each in document["methods"]["samples"]] == ["good"]
    assert f'src="data:image/png;base64,{base64.b64encode(grid).decode()}" alt="Images drawn by good"' in page
    assert "good, Fréchet distance 0.25" in page


def test_every_script_of_the_page_is_named_by_the_policy_and_no_other(run_text, workspace):
    _, page = page_of(workspace, run_text(SEARCH).run)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = re.search(r"script-src ([^;]*);", unescape(page))[1]
    digests = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy == " ".join(f"'sha256-{digest}'" for digest in digests)


class Elements(HTMLParser):
    """Tags and attributes of a page, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_texts_stay_texts(run_text, workspace, monkeypatch):
    """In settings, labels, logs, errors, file names and the workflow itself."""

    def prints(_context):
        print(HOSTILE)
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("stages.probe.fail.fail", prints)
    text = json.dumps(HOSTILE)
    workflow = SEARCH.replace("TEXT", text) + f"  each: {{stage: probe.echo, foreach: {{value: [{text}]}}}}\n"
    workflow += "  broken: {stage: probe.fail, inputs: {inputs: [each]}}\n"
    document, page = page_of(workspace, run_text(workflow, options=RunOptions(keep_going=True)).run)
    found = Elements(page)
    assert "img" not in found.tags
    assert found.tags.count("script") == 1 + len(SCRIPTS)
    assert found.handlers == []
    assert document["failures"]["attempts"][0]["log"][0].startswith("</script>")
    assert found.text.count('alert("x")') > 3
    rows = data_in(page)["sweeps"][0]["rows"]
    assert any("</script>" in str(cell) for row in rows for cell in row)


def test_embedded_json_ends_no_element_and_reads_back():
    value = {"a": HOSTILE, "b": ["<!--", "]]>", "&amp;", "\u2029", "ü", None, 1.5]}
    text = embedded_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_commands_name_the_store_where_it_is_not_the_default(run_text, workspace):
    run = run_text("version: 1\nname: n\nnodes:\n  a: {stage: probe.echo}\n").run
    _, page = page_of(workspace, run, program="orchestrator --store /data/s")
    assert "orchestrator --store /data/s artifacts get " in page


def test_the_bundled_library_is_the_one_that_is_written_down():
    notes = (ASSETS / "README.md").read_text()
    assert sha256((ASSETS / "echarts.min.js").read_bytes()).hexdigest() in notes
    assert "Apache License" in (ASSETS / "LICENSE-echarts.txt").read_text()


def test_no_script_writes_markup():
    """Texts reach the page as text nodes: what a stage or a user named something can be no tag there."""
    for path in sorted(ASSETS.glob("*.js")):
        if path.name.startswith("echarts"):
            continue
        found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text())
        assert not found, path.name


def test_assets_are_installed_with_the_package():
    listed = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"orchestrator.report.page" = ["assets/*"]' in listed
    assert {"report.html.j2", "page.css", "page.js", "echarts.min.js"} <= {path.name for path in ASSETS.iterdir()}
