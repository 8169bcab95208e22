"""The house's rules about imports, checked on what really gets loaded. The import contracts check what is written."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("ray", "torch", "numpy", "boto3", "timm", "sklearn", "onnx", "onnxruntime", "pandas", "pyarrow", "rich", "diffusers", "scipy")


def loaded_by(code: str, names: tuple[str, ...]) -> list[str]:
    script = f"{code}\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import orchestrator.api",
        "import orchestrator.engine.executors.ray",
        "from stages.catalog import all_stages; all_stages()",
        "import stages.contract",
    ],
)
def test_planning_loads_nothing_heavy(code):
    assert loaded_by(code, HEAVY) == []


def test_stages_load_without_the_engine_and_without_ray():
    code = (
        "from stages.catalog import all_stages, load_implementation\n"
        "[load_implementation(spec) for spec in all_stages().values()]"
    )
    assert loaded_by(code, ("orchestrator", "ray")) == []
