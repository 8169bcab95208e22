"""What a run leaves behind is shared: no secret of the environment is in it, and nobody else may change it."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from cli_calls import Cli, spawn

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED01",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+of/aws/0123456789abcdefghij",
    "AWS_SESSION_TOKEN": "planted-session-token-0123456789",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "WANDB_API_KEY": "planted0wandb0key0planted0wandb0key",
    "GITHUB_TOKEN": "ghp_plantedplantedplantedplanted",
    "MY_DATABASE_PASSWORD": "planted-password-in-the-environment",
}


@pytest.fixture
def written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Everything that a process with secrets in its environment wrote: good runs and bad, names, gc."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = []
    for arguments in (
        ("submit", "chain.yaml", "--executor", "inline", "--tag", "who=ann"),
        ("gc", "--keep-days", "0", "--keep-runs", "0", "--grace", "0s", "--apply", "-v"),
        ("submit", "failing.yaml", "--executor", "inline", "-v"),
        ("status", "@last", "-v"),
        ("show", "@last", "--json"),
        ("doctor", "--bundle", "report.zip"),
        ("submit", "chain.yaml", "--executor", "inline", "--set", "first.value=4", "--log-file", "run.log"),
        ("artifacts", "verify", "--all"),
    ):
        process = spawn(*arguments)
        said += process.communicate(timeout=120)
    (tmp_path / "said.txt").write_text("".join(said))
    with zipfile.ZipFile("report.zip") as bundle:
        bundle.extractall(tmp_path / "bundle")
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_secret_of_the_environment_is_written_anywhere(written: list[Path]) -> None:
    """Stores are shared, and logs end up in tickets."""
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        found = [name for name, value in SECRETS.items() if value.encode() in content]
        assert not found, f"{path} holds {found}"


def test_nobody_else_may_change_what_was_written(written: list[Path], tmp_path: Path) -> None:
    """A store on a shared machine could be changed by anyone."""
    for path in tmp_path.rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH), f"{path} has mode {stat.filemode(mode)}"
    blobs = [path for path in written if "blobs" in path.parts]
    assert blobs
    assert all(not path.stat().st_mode & 0o222 for path in blobs), "blobs are never written again"
