"""What tests of reading and checking share: the head of a file, and its problems."""

from __future__ import annotations

from orchestrator.errors import WorkflowError
from orchestrator.workflow.load import load_text

HEAD = "version: 1\nname: demo\nnodes:\n"


def problems_in(text: str | bytes, *, overrides=()):
    """Problems of loading alone, whether the rest could be read or not."""
    try:
        return list(load_text(text, file="x.yaml", overrides=overrides).problems)
    except WorkflowError as error:
        return list(error.problems)
