"""Where a result came from: code commit, command, versions, host. Recorded with each artifact; never part of a key."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("orchestrator", "ray", "torch", "timm", "diffusers", "numpy", "onnx", "onnxruntime", "pydantic", "scikit-learn")
_SECRET = re.compile(r"(?i)(secret|token|passw|credential|api_?key|access_?key)[^=]*=")


def command_provenance() -> dict[str, Any]:
    """Commit, dirty flag and command line of this process; asked once per run, by the process that submits."""
    commit, dirty = _commit()
    return {"commit": commit, "dirty": dirty, "command": [without_secret(word) for word in sys.argv]}


@lru_cache(maxsize=1)
def environment_versions() -> dict[str, str]:
    """Versions of Python, of the operating system and of the packages that shape results."""
    versions = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> tuple[str, bool]:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "", False
    lines = done.stdout.splitlines()
    commit = next((line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")), "")
    return commit, any(not line.startswith("#") for line in lines)


def without_secret(word: str) -> str:
    """A word of a command line; of NAME=VALUE the value is hidden where the name is that of a secret."""
    match = _SECRET.search(word)
    return f"{word[: match.end()]}***" if match else word
