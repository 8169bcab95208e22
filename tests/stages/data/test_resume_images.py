"""Training on packed images that is killed in the middle of an epoch and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.stages.data.resume_images_script import KILLED_AFTER, NUM_STEPS
from tests.stages.data.support import flat, pack, write_folder

AUGMENT = {"flip": 0.5, "crop_scale": [0.5, 1], "mixup": 0.4}
SCRIPT = Path(__file__).with_name("resume_images_script.py")


def steps_of(folder):
    return [json.loads((folder / f"step-{step:03d}.json").read_text()) for step in range(NUM_STEPS)]


def test_killed_in_an_epoch_it_sees_every_image_once_and_ends_with_the_same_bits(tmp_path):
    """Order, random changes and place in the epoch all have to survive; so does a change of the number of processes."""
    packed = str(pack({"name": "folder", "path": str(write_folder(tmp_path / "images", train=24))}, tmp_path, rows_per_group=4))
    runs = [
        *([tmp_path / "plain", packed, None, 0, None], [tmp_path / "killed", packed, None, 0, KILLED_AFTER]),
        *([tmp_path / "killed", packed, None, 2, None],),
        *([tmp_path / "mixed", packed, AUGMENT, 2, None], [tmp_path / "torn", packed, AUGMENT, 2, KILLED_AFTER]),
        *([tmp_path / "torn", packed, AUGMENT, 0, None],),
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps([[str(folder), *rest] for folder, *rest in runs])],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [0, -9, 0, 0, -9, 0], done.stderr
    for whole, continued in (("plain", "killed"), ("mixed", "torn")):
        weights = [(tmp_path / name / "final.safetensors").read_bytes() for name in (whole, continued)]
        assert weights[0] == weights[1]
        assert steps_of(tmp_path / whole) == steps_of(tmp_path / continued)
    steps = steps_of(tmp_path / "killed")
    for epoch in range(2):
        assert sorted(flat(steps[epoch * 6 : epoch * 6 + 6])) == list(range(24))
