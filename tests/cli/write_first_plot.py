"""docs/transcripts/first-plot.md: from nothing to a Pareto plot, really run, with the time that each command took.

    python tests/cli/write_first_plot.py

Some minutes. The workflow is the template as `init` writes it, on Ray, with the whole of digits; nothing is made smaller.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "transcripts" / "first-plot.md"
COMMANDS = (
    "init vit_compress --out my_vit.yaml",
    "plan my_vit.yaml",
    "submit my_vit.yaml",
    "pareto --plot front.svg",
)
HEAD = """# From nothing to a Pareto plot

An empty folder, three commands, and a fourth that draws: run on {machine}, with other work beside it.
Written by `python tests/cli/write_first_plot.py`; nothing in it was made smaller or left out. Together {total}.

"""


def main() -> None:
    blocks, total_s = [], 0.0
    with tempfile.TemporaryDirectory(prefix="first-plot-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        for line in COMMANDS:
            began_s = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "orchestrator", *line.split()], cwd=folder, env={**environment, "COLUMNS": "120"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            took_s = time.perf_counter() - began_s
            total_s += took_s
            said = done.stdout.replace(folder, "/home/me/work").replace(str(ROOT), "/opt/orchestrator")
            blocks.append(f"$ orchestrator {line}\n{said}(exit code {done.returncode}, after {took_s:.1f} s)\n")
            assert done.returncode == 0, said
        assert "<svg" in (Path(folder) / "front.svg").read_text()
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU"
    text = HEAD.format(machine=machine, total=f"{total_s / 60:.1f} minutes") + "```console\n" + "\n".join(blocks) + "```\n"
    PAGE.write_text(re.sub(r"[ \t]+\n", "\n", text))


if __name__ == "__main__":
    main()
