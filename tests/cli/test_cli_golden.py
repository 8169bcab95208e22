"""The pages under docs/transcripts are what the program says today; a change of words is reviewed there."""

from __future__ import annotations

import pytest
from write_transcripts import FOLDER, TRANSCRIPTS, render, same


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_golden_transcript_is_current(name: str) -> None:
    page = (FOLDER / f"{name}.md").read_text()
    made = render(name)
    assert same(page, made), f"python tests/cli/write_transcripts.py, and read the difference:\n{made}"
