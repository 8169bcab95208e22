"""A killed training run goes on and ends with the very same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("resume_script.py")


def run_each(*runs):
    done = subprocess.run([sys.executable, SCRIPT, json.dumps(runs)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_run_killed_twice_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    """Otherwise a preempted node would give another artifact than the one its key promises.

    The model has batch norm and dropout, the run a moving average, clipping, and a hook whose parameter is frozen at step 11;
    the kills lie before and after that, off the saved states at multiples of 3.
    """
    for optimizer, kills in (("adamw", (4, 13)), ("sgd", (10, 10))):
        undisturbed, killed = (str(tmp_path / f"{optimizer}-{name}") for name in ("undisturbed", "killed"))
        endings, errors = run_each(
            (undisturbed, None, optimizer), *((killed, step, optimizer) for step in kills), (killed, None, optimizer)
        )
        assert endings == [0, -signal.SIGKILL, -signal.SIGKILL, 0], errors
        first, second = (json.loads((Path(folder) / "history.json").read_text()) for folder in (undisturbed, killed))
        assert first["resumed"] is None
        assert second["resumed"] == kills[-1] // 3 * 3
        assert json.dumps(first["history"]) == json.dumps(second["history"]), "the file that a node keeps is part of its digest"
        weights = [(Path(folder) / "final.safetensors").read_bytes() for folder in (undisturbed, killed)]
        assert weights[0] == weights[1]
        states = {path.name for path in (Path(killed) / "checkpoints").rglob("*") if path.is_file()}
        assert states == {"state.json", "tensors.safetensors"}, "a state holds no pickle"
