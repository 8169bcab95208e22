"""`config set`: one setting of a profile is written, all else in the user's file stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator.cli.profiles import load_profile

HAND_WRITTEN = """\
# the lab's cluster
[gpu8]   # eight cards
address = "http://head:8265"   # as a job
store = "s3://lab/artifacts"

[other]
executor = "inline"
"""


def test_a_profile_is_made_changed_and_chosen(cli: Cli) -> None:
    for setting, value in (
        ("gpu8.address", "http://head:8265"), ("gpu8.pass_env", "HF_HOME, TOKENIZERS"), ("gpu8.num_cpus", "8"),
        ("gpu8.dashboard", "on"), ("gpu8.usd_per_gpu_hour", "2.5"), ("gpu8.usd_per_cpu_hour", "1"),
    ):  # fmt: skip
        assert cli("config", "set", setting, value).code == 0
    profile = load_profile("gpu8")
    assert (profile.address, profile.pass_env) == ("http://head:8265", ["HF_HOME", "TOKENIZERS"])
    assert (profile.num_cpus, profile.dashboard) == (8, True)
    rows = cli("config", "show", "--profile", "gpu8", "--json").document["settings"]
    assert {"name": "cluster", "value": "http://head:8265", "source": "profile gpu8"} in rows
    told = {row["name"]: row["value"] for row in rows if row["source"] == "profile gpu8"}
    assert (told["pass_env"], told["dashboard"], told["usd_per_gpu_hour"]) == ("HF_HOME, TOKENIZERS", "true", "2.5")
    assert cli("config", "set", "gpu8.num_cpus", "").code == 0
    assert load_profile("gpu8").num_cpus is None


def test_comments_and_other_profiles_stay(cli: Cli) -> None:
    Path("profiles.toml").write_text(HAND_WRITTEN)
    cli("config", "set", "gpu8.address", "http://new:8265")
    cli("config", "set", "gpu8.num_cpus", "8")
    assert Path("profiles.toml").read_text() == HAND_WRITTEN.replace(
        'address = "http://head:8265"   # as a job', 'address = "http://new:8265"'
    ).replace('artifacts"\n', 'artifacts"\nnum_cpus = 8\n')


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("gpu8.adress", "x", "is no setting of a profile"),
        ("address", "x", "is no setting of a profile"),
        ("gpu8.num_cpus", "many", "num_cpus: input should be a valid integer"),
        ("gpu8.usd_per_gpu_hour", "nan", "usd_per_gpu_hour: input should be a valid number"),
        ("gpu8.executor", "cloud", "executor: input should be 'ray' or 'inline'"),
    ],
)
def test_what_a_profile_cannot_say_is_refused_and_nothing_is_written(cli: Cli, setting: str, value: str, said: str) -> None:
    Path("profiles.toml").write_text(HAND_WRITTEN)
    answer = cli("config", "set", setting, value)
    assert answer.code == 2
    assert said in answer.err
    assert Path("profiles.toml").read_text() == HAND_WRITTEN


def test_a_file_written_in_another_way_is_left_alone(cli: Cli) -> None:
    text = 'gpu8 = {address = "http://head:8265"}\n'
    Path("profiles.toml").write_text(text)
    answer = cli("config", "set", "gpu8.num_cpus", "8")
    assert answer.code == 2
    assert "edit " in answer.err
    assert Path("profiles.toml").read_text() == text
