"""A node of a Ray cluster is lost, with the stage that runs there: the run goes on elsewhere and ends in the same content."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("lose_a_node.py")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_run_survives_the_loss_of_a_node_of_its_cluster(tmp_path: Path, tally) -> None:
    """Preemptible machines go like that: with the raylet, without a word."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:  # for Ray's sockets
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, check=False, timeout=240,
            env={**os.environ, "RAY_TMPDIR": short},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tally.add("kill on Ray: a node of the cluster")
