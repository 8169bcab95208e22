"""One Chromium for all tests of pages; without one they are skipped with a word, or fail where they must not be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from chromium import Chromium, find_chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        what = "no Chromium is installed (Debian: apt-get install chromium)"
        if os.environ.get("ORCHESTRATOR_TESTS_MUST_NOT_SKIP"):
            pytest.fail(what)
        pytest.skip(what)
    browser = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
