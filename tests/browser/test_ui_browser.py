"""`ui` beside a run that goes on: over HTTP as a program sees it, and in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

WORKFLOW = """
version: 1
name: watched
nodes:
  first: {stage: probe.echo, params: {value: 1}}
  slow: {stage: probe.sleep, params: {seconds: 600}, inputs: {inputs: [first]}}
"""


class Served:
    """A store with a run that goes on, and `ui` over it."""

    def __init__(self, folder: Path) -> None:
        (folder / "w.yaml").write_text(WORKFLOW)
        self.environment = {**os.environ, "ORCHESTRATOR_STORE": str(folder / "store")}
        self.folder = folder
        self.run_process = self.start("submit", "w.yaml", "--executor", "inline")
        assert self.run_process.stdout is not None
        self.run = next(
            event["run"] for line in self.run_process.stdout if (event := json.loads(line))["type"] == "node_progress"
        )
        self.ui_process = self.start("ui", "--port", "0")
        assert self.ui_process.stdout is not None
        self.url = str(json.loads(self.ui_process.stdout.readline())["url"])

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator", "--json", *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True)

    def get(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def status_of(self, path: str, *, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    started = Served(tmp_path_factory.mktemp("ui"))
    yield started
    for process in (started.run_process, started.ui_process):
        process.terminate()
        process.wait(30)


def test_the_list_names_every_run_and_leads_to_its_page(served: Served) -> None:
    page = served.get("")
    assert f'href="/run/{served.run}"' in page
    assert "watched" in page
    assert "<script" not in page
    assert json.loads(served.get(f"run/{served.run}/report.json"))["run"]["state"] == "running"


def test_it_answers_this_machine_only_and_changes_nothing(served: Served) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    assert served.status_of("") == 200
    assert served.status_of("", Host="elsewhere.example:80") == 403
    assert served.status_of("", method="POST") == 405
    assert served.status_of("run/nosuchrun") == 404
    assert served.status_of("run/..%2f..%2fetc") == 404


def test_the_page_of_a_run_follows_it_to_its_end(served: Served, chromium: Chromium) -> None:
    page = chromium.open(f"{served.url}run/{served.run}")
    page.wait_until(
        "document.querySelector('#live progress')?.value >= 0 && document.querySelector('#live').innerText.includes('slow')"
    )
    before = page.run("document.querySelector('#live').innerText")
    page.wait_until(f"document.querySelector('#live').innerText !== {json.dumps(before)}")  # the stream goes on
    screenshots = os.environ.get("ORCHESTRATOR_SCREENSHOTS")
    if screenshots:
        (Path(screenshots) / "ui-live.png").write_bytes(page.screenshot())
    assert page.complaints == []
    assert all(request.startswith(served.url) for request in page.requests)
    served.run_process.terminate()
    served.run_process.wait(30)
    wait_until(lambda: page.run("document.title").endswith("cancelled"))
    assert page.run("document.querySelector('#live')") is None
    assert page.complaints == []
    page.close()
