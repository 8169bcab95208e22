"""The page of a report in a real browser: plots, tables, keys and mouse work, and nothing is asked of the network."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Page

from orchestrator import api
from orchestrator.report.page.document import report_document
from orchestrator.report.page.html import html_page
from orchestrator.report.page.sources import read_sources
from orchestrator.store.ledger import now_text
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from stages.contract import StageContext, StageResult

NAME = "</script><b>näme</b>" + "x" * 200

WORKFLOW = f"""
version: 1
name: thousand
nodes:
  base: {{stage: probe.echo, params: {{value: 0.5}}}}
  named: {{stage: probe.echo, foreach: {{value: [{json.dumps(NAME)}]}}}}
  train: {{stage: probe.sleep, params: {{seconds: 0.01}}, inputs: {{inputs: [base]}}}}
  search:
    sweep:
      trials: TRIALS
      sampler: random
      objectives: {{score.value: maximize, draw.value: minimize}}
      constraints: [{{metric: score.value, min: 0.2}}]
      space: {{score.value: {{uniform: [0, 1]}}, draw.value: {{int: [1, 30]}}, kind.value: {{choice: [alpha, beta, gamma]}}}}
    nodes:
      kind: {{stage: probe.echo, inputs: {{inputs: [base]}}}}
      draw: {{stage: probe.echo, inputs: {{inputs: [base]}}}}
      score: {{stage: probe.echo, inputs: {{inputs: [draw, kind]}}}}
"""

MAX_BYTES = 3_000_000

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one browser, and two reports that are made once


def trains(context: StageContext) -> StageResult:
    """In place of `probe.sleep`: leaves what training stages leave."""
    history = [
        {"epoch": epoch, "loss": 1 / epoch, "frozen_fraction": epoch / 20, "kept_combinations": 6 - epoch // 4}
        for epoch in range(1, 21)
    ]
    (context.output / "history.json").write_text(json.dumps(history))
    layers = [
        {"name": f"layer{index}", "num_weights": 64, "num_nonzero": 64 // index, "weight_bits": 4, "macs": 1}
        for index in (1, 2, 4)
    ]
    (context.output / "layers.json").write_text(json.dumps({"format": 1, "layers": layers}))
    image = {"class": NAME, "shape": [2, 2, 1], "pixels": "AH//QA==", "blocks": [[1, 2, 3, 4], [1, 1, -1, 2]]}
    (context.output / "tokens.json").write_text(json.dumps({"format": 1, "grid": [2, 2], "images": [image]}))
    return StageResult(metrics={"kept_tokens": [5, 3], "num_pruned": [0, 1], "num_merged": [0, 1], "top1_accuracy": 0.9})


FAILING = """
version: 1
name: failing
nodes:
  fine: {stage: probe.echo, params: {value: 1}}
  broken: {stage: probe.fail, inputs: {inputs: [fine]}}
  below: {stage: probe.echo, inputs: {inputs: [broken]}}
"""

NOTHING_DRAWN = """
version: 1
name: one
nodes:
  search:
    sweep: {sampler: grid, objectives: {draw.value: maximize}, space: {draw.value: {choice: [a, b]}}}
    nodes:
      draw: {stage: probe.echo}
"""


def report(folder: Path, *, name: str, text: str) -> Path:
    workspace = api.open_workspace(str(folder / f"store-{name}"))
    checked = check_workflow(load_text(text, file="w.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.probe.sleep.sleep", trains)
        run = api.submit(api.plan_checked(checked, workspace=workspace), workspace=workspace, executor="inline").run
    place = folder / f"report-{name}.html"
    place.write_text(html_page(report_document(read_sources(workspace.store, run, now=now_text()))), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def folder(chromium: Chromium) -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="report-", dir=memory if memory.is_dir() else None))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def large(folder: Path) -> Path:
    """The report of a thousand trials."""
    return report(folder, name="large", text=WORKFLOW.replace("TRIALS", "1000"))


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """One that opens more quickly."""
    return report(folder, name="small", text=WORKFLOW.replace("TRIALS", "40"))


Open = Callable[..., Page]


@pytest.fixture
def opened(chromium: Chromium, small: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a page; afterwards it must have complained of nothing and asked for nothing but itself."""
    pages: list[tuple[Page, Path]] = []

    def open_page(file: Path = small, **options: Any) -> Page:
        pages.append((chromium.open(file, **options), file))
        return pages[-1][0]

    yield open_page
    for number, (page, file) in enumerate(pages):
        if place := os.environ.get("ORCHESTRATOR_SCREENSHOTS"):
            (Path(place) / f"{request.node.name}-{number}.png").write_bytes(page.screenshot())
        assert page.complaints == []
        assert page.requests == [file.as_uri()]
        page.close()


def is_drawn(selector: str) -> str:
    """A script: whether every canvas that matches has more than one colour."""
    return (
        f"[...document.querySelectorAll({json.dumps(selector + ' canvas')})].map(canvas => {{"
        " const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        " const pixels = new Uint32Array(data.buffer); const seen = new Set(pixels);"
        " return seen.size > 3; })"
    )


def test_a_thousand_trials_fit_and_are_drawn(large, opened):
    assert large.stat().st_size < MAX_BYTES
    page = opened(large)
    complete_ms = page.run("performance.getEntriesByType('navigation')[0].domComplete")
    print(f"{large.stat().st_size:,} bytes, complete after {complete_ms:.0f} ms")
    assert page.run("document.querySelector('.trials .controls [role=status]').textContent") == "1000 of 1000 trials"
    page.run("report.drawAll()")
    assert all(page.run(is_drawn(".plot")))
    assert len(column(page, "trial")) == 100
    page.run("[...document.querySelectorAll('.trials .controls button')].at(-1).click()")
    assert len(column(page, "trial")) == 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_every_plot_is_drawn_and_nothing_is_wider_than_the_window(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    page.run("report.drawAll()")
    drawn = page.run(is_drawn(".plot"))
    assert len(drawn) >= 7
    assert all(drawn)
    assert page.run("document.documentElement.scrollWidth") <= width
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]


def test_the_toggle_turns_the_page_and_its_plots(opened):
    page = opened()
    page.run("report.drawAll()")
    page.click(*page.place_of("#theme"))
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.run("report.charts[0].made.getOption().textStyle.color") == "#e4e8ec"
    page.click(*page.place_of("#theme"))
    assert page.run("report.charts[0].made.getOption().textStyle.color") == "#1b1f24"


def point_of_best(page: Page) -> list[float]:
    """Where the star of the best trial is in the window; the plot is drawn when it comes into sight."""
    page.place_of("#plots .plot")
    page.wait_until("document.querySelector('#plots .plot canvas') !== null")
    return page.run(
        "(() => { const chart = report.charts.find(({made}) => made.getDom().closest('#plots')).made;"
        " const best = chart.getOption().series.findIndex(each => each.name === 'best');"
        " const [x, y] = chart.convertToPixel({seriesIndex: best}, chart.getOption().series[best].data[0].slice(0, 2));"
        " const box = chart.getDom().getBoundingClientRect(); return [box.x + x, box.y + y]; })()"
    )


def test_hovering_over_a_point_tells_of_the_trial(opened):
    page = opened()
    page.move(*point_of_best(page))
    page.wait_until("document.querySelector('#plots .tip')?.textContent.includes(' best')")
    assert "kind" in page.run("document.querySelector('#plots .tip').textContent")


def test_clicking_a_point_copies_the_key_of_its_file(opened):
    page = opened()
    page.run("window.copied = []; document.execCommand = () => copied.push(document.activeElement.value); 1")
    page.run("Object.defineProperty(navigator, 'clipboard', {value: null}); 1")
    page.click(*point_of_best(page))
    page.wait_until("copied.length === 1")
    row = page.run("report.data.sweeps[0].rows.find(row => row[2] === 'best')")
    assert page.run("copied[0]") == row[4]
    assert len(row[4]) == 32
    page.wait_until(f"document.getElementById('toast').textContent.includes('{row[4][:8]}')")


def column(page: Page, title: str) -> list[str]:
    return page.run(
        "(() => { const table = document.querySelector('.trials table');"
        f" const titles = [...table.querySelectorAll('thead th')].map(cell => cell.textContent.trim());"
        f" const at = titles.indexOf({json.dumps(title)});"
        " return [...table.querySelectorAll('tbody tr')].map(row => row.children[at].textContent); })()"
    )


def test_a_click_on_a_title_sorts_and_another_turns_the_order(opened):
    page = opened()
    title = "[...document.querySelectorAll('.trials thead button')].find(each => each.textContent === 'draw.value')"
    page.run(f"{title}.click()")
    assert [float(each) for each in column(page, "draw.value")] == sorted(float(each) for each in column(page, "draw.value"))
    assert page.run(f"{title}.parentElement.getAttribute('aria-sort')") == "ascending"
    page.run(f"{title}.click()")
    assert float(column(page, "draw.value")[0]) == max(float(each) for each in column(page, "draw.value"))
    assert page.run(f"{title}.parentElement.getAttribute('aria-sort')") == "descending"


def test_the_filter_takes_words_and_comparisons(opened):
    page = opened()
    page.click(*page.place_of(".trials input[type=search]"))
    page.write("draw.value<=9 gamma")
    shown = column(page, "draw.value")
    assert shown
    assert all(int(each) <= 9 for each in shown)
    assert set(column(page, "kind.value")) == {"gamma"}
    page.run(
        "(() => { const box = document.querySelector('.trials input[type=search]');"
        " box.value = 't0007'; box.dispatchEvent(new Event('input')); })()"
    )
    assert column(page, "trial") == ["t0007"]


def test_rows_and_boxes_are_reached_by_keyboard(opened):
    page = opened()
    page.run("document.querySelector('.trials tbody tr').focus()")
    page.press("ArrowDown")
    assert page.run("document.activeElement.rowIndex") == 2
    page.press("ArrowUp")
    page.press("Enter")
    page.wait_until("document.getElementById('toast').classList.contains('shown')")
    page.run("document.querySelector('.node').focus()")
    assert page.run("document.querySelector('#node-details h3').textContent") == page.run(
        "document.querySelector('.node').dataset.node"
    )
    page.press("Tab")
    assert page.run("document.activeElement.classList.contains('node')")
    assert page.run("document.querySelector('#node-details h3').textContent") == page.run("document.activeElement.dataset.node")


def test_an_area_of_the_parallel_axes_filters_the_table(opened):
    page = opened()
    page.run("report.drawAll()")
    page.run(
        "(() => { const chart = report.charts.find(({made}) => made.getOption().parallelAxis?.length).made;"
        " const at = chart.getOption().parallelAxis.findIndex(each => each.name === 'draw.value');"
        " const parallelAxisId = chart.getModel().getComponent('parallelAxis', at).id;"
        " chart.dispatchAction({type: 'axisAreaSelect', parallelAxisId, intervals: [[1, 9]]}); })()"
    )
    page.wait_until("!document.querySelector('.trials .controls [role=status]').textContent.startsWith('40 ')")
    assert all(int(each) <= 9 for each in column(page, "draw.value"))


def test_hostile_names_are_text_on_the_page(opened):
    page = opened()
    assert page.run("document.querySelectorAll('main b:not(.tip b)').length") == page.run(
        "[...document.querySelectorAll('main b')].filter(each => each.textContent !== 'näme').length"
    )
    assert page.run("document.body.textContent.includes('<b>näme</b>')")


def test_the_page_prints_light_and_unfolded(opened):
    page = opened(scheme="dark")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert all(page.run(is_drawn(".plot")))
    assert page.run("document.documentElement.dataset.theme") == "light"
    assert page.run("[...document.querySelectorAll('details')].every(each => each.open)")
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.documentElement.dataset.theme") is None


def test_a_failed_run_and_a_search_that_measured_nothing_have_sound_pages(opened, folder):
    failing = opened(report(folder, name="failing", text=FAILING), width=360)
    assert "attempt 1 fails on purpose" in failing.run("document.querySelector('#failures').textContent")
    assert failing.run("document.querySelector('.node[data-word=FAIL]').dataset.node") == "broken"
    nothing = opened(report(folder, name="nothing", text=NOTHING_DRAWN))
    assert nothing.run("document.querySelector('#plots .plots').textContent") == "No trial has been measured."
