"""The house's rules about imports, checked on what really gets loaded. The import contracts check what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "ray",
    "torch",
    "numpy",
    "botocore",
    "timm",
    "sklearn",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "rich",
    "diffusers",
    "scipy",
)


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


OPENED = """
import sys
from pathlib import Path
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
sys.argv = ["orchestrator", "--store", sys.argv[1], "submit", sys.argv[2], "--executor", "inline"]
from orchestrator.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("blobs opened:", sum("/blobs/" in path for path in opened))
print("records opened:", sum(path.endswith("record.json") for path in opened))
print("heavy:", *[name for name in ("ray", "torch", "numpy", "botocore") if name in sys.modules])
"""


def test_a_finished_workflow_submitted_again_reads_records_only_and_loads_nothing_heavy(tmp_path):
    """The second run must cost nothing: it is typed often, and on a laptop."""
    workflow = Path(__file__).parents[2] / "workflows/smoke/engine.yaml"
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", OPENED, str(tmp_path / "store"), str(workflow)], capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()[-3:]
    assert lines[0] == "blobs opened: 0"
    assert int(lines[1].rpartition(" ")[2]) >= 7
    assert lines[2].strip() == "heavy:"
    assert "nothing to do" in done.stderr
