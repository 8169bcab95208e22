"""How long a person waits for the first byte of a command, on a terminal and in a pipe.

    python benchmarks/first_output.py [--repeat 7]

Each command is a process of its own over a store in which workflows/vit_compress.yaml has run with `--smoke`; the clock runs
from its start to the first byte on either stream. The first call of each is not counted: it fills the disk's cache and
Python's. The target is 300 ms by the median. Beside it stands `python -c print()` of the same moment, since a busy machine
makes everything late, and the CPU time until the end, which it changes less.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = str(ROOT / "workflows" / "vit_compress.yaml")
TARGET_MS = 300
BASELINE = [sys.executable, "-c", "print()"]
COMMANDS = {
    "--help": ["--help"],
    "plan, all hits": ["plan", WORKFLOW, "--smoke"],
    "plan, all new": ["plan", WORKFLOW],
    "submit, nothing to do": ["submit", WORKFLOW, "--smoke"],
    "status": ["status"],
    "status RUN": ["status", "@last"],
    "ls": ["ls"],
    "best": ["best"],
    "logs RUN": ["logs", "@last"],
    "show KEY": ["show", "@last/pretrain"],
}


def first_byte_ms(command: list[str], *, on_terminal: bool, cwd: str) -> tuple[float, float]:
    """Milliseconds of the clock until the first byte, and of the processor until the end; the process is then stopped."""
    if on_terminal:
        ours, theirs = pty.openpty()
    else:
        ours, theirs = os.pipe()
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": f"{cwd}/pycache"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled once, and so is this one
    before_s = os.times()
    began_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    select.select([ours], [], [])
    waited_ms = (time.perf_counter() - began_s) * 1e3
    try:
        while os.read(ours, 65536):
            pass
    except OSError:  # a terminal whose other end has closed
        pass
    os.close(ours)
    process.wait()
    after_s = os.times()
    spent_s = after_s.children_user - before_s.children_user + after_s.children_system - before_s.children_system
    return waited_ms, spent_s * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    ours = [sys.executable, "-m", "orchestrator"]
    missed = []
    with tempfile.TemporaryDirectory(prefix="first-output-") as folder:
        subprocess.run(
            [*ours, "submit", WORKFLOW, "--smoke", "--executor", "inline", "-q"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for on_terminal in (True, False):
            head = ("on a terminal" if on_terminal else "in a pipe", "first byte ms: median, min, max", "python", "CPU ms")
            print(f"{head[0]:<24}{head[1]:>34}{head[2]:>9}{head[3]:>9}")
            for name, words in COMMANDS.items():
                plain, found = [], []
                first_byte_ms([*ours, *words], on_terminal=on_terminal, cwd=folder)
                for _ in range(repeat):
                    plain.append(first_byte_ms(BASELINE, on_terminal=on_terminal, cwd=folder)[0])
                    found.append(first_byte_ms([*ours, *words], on_terminal=on_terminal, cwd=folder))
                waits = [wait for wait, _ in found]
                median = statistics.median(waits)
                late = "" if median <= TARGET_MS else "   MISSED"
                missed += [name] if late else []
                figures = f"{median:.0f}, {min(waits):.0f}, {max(waits):.0f}"
                spent = statistics.median(spent for _, spent in found)
                print(f"{name:<24}{figures:>34}{statistics.median(plain):>9.0f}{spent:>9.0f}{late}")
    print(f"target {TARGET_MS} ms: {'missed by ' + ', '.join(dict.fromkeys(missed)) if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
