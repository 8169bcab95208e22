"""`benchmarks/gpu.py` as far as it goes without a GPU: its code runs, so that hours on one are not lost to a misspelt name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def test_every_section_runs_on_small_shapes():
    done = run("--tiny")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("###")] == [
        "sparse", "low_bits", "tokens", "freezing"
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_measures_nothing():
    done = run()
    assert done.returncode == 2
    assert "there is no CUDA GPU here" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_layers_in_2_4_are_near_the_dense_ones():
    done = run("--only", "sparse", "--seconds", "0.5")
    assert done.returncode == 0, done.stderr
    rows = json.loads((ROOT / "benchmarks" / "out" / "gpu.json").read_text())["sections"]["sparse"]
    assert all(row["max_relative_difference"] < 1e-2 for row in rows)
