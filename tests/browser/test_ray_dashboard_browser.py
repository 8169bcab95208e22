"""Ray's own dashboard in a real browser: it opens with the token of the run, and shows stage hosts and jobs by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium
from watched_run import WatchedRun

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRun]:
    started = WatchedRun(tmp_path_factory.mktemp("watched"))
    yield started
    started.process.terminate()
    started.process.wait(60)


def test_the_dashboard_shows_the_hosts_of_the_run_by_name(run: WatchedRun, chromium: Chromium) -> None:
    page = chromium.open("about:blank", is_ours=False)
    page.call("Network.setCookie", name="ray-authentication-token", value=run.token_file.read_text(), url=run.url)
    page.call("Page.navigate", url=f"{run.url}/#/actors")
    page.wait_until(f"document.body?.innerText.includes('{run.run}/host-1')")
    screenshots = os.environ.get("ORCHESTRATOR_SCREENSHOTS")
    if screenshots:
        (Path(screenshots) / "ray-dashboard.png").write_bytes(page.screenshot())
    page.close()
