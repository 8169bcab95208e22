"""A disk of a few kilobytes, mounted where only the programs that are started on it see it; it goes away with its holder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A memory disk at `path`, in a name space of mounts of its own. `run` starts programs there; `seen` is its path here."""

    def __init__(self, path: Path, size_kib: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._holder = subprocess.Popen(["unshare", "--mount", "sleep", "infinity"])
        self._call("mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(path))

    @property
    def seen(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.path}")

    def run(self, *command: object, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--mount", "--target", str(self._holder.pid), f"--wd={Path.cwd()}", *map(str, command)],
            capture_output=True, text=True, check=False, env={**os.environ, **(variables or {})}, timeout=120,
        )  # fmt: skip

    def resize(self, size_kib: int) -> None:
        self._call("mount", "-o", f"remount,size={size_kib}k", str(self.path))

    def make_read_only(self, *, is_read_only: bool = True) -> None:
        self._call("mount", "-o", f"remount,{'ro' if is_read_only else 'rw'}", str(self.path))

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def _call(self, *command: str) -> None:
        while Path(f"/proc/{self._holder.pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
            time.sleep(0.01)  # until the holder has its name space
        done = self.run(*command)
        assert done.returncode == 0, done.stderr


@contextmanager
def small_disk(path: Path, size_kib: int) -> Iterator[SmallDisk]:
    """A disk, or a skip that says why there can be none."""
    programs = [name for name in ("unshare", "nsenter", "mount") if shutil.which(name) is None]
    if os.geteuid() != 0 or programs:
        pytest.skip(f"a small disk needs root and {', '.join(programs) or 'mount'}")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs a name space of mounts, which may not be made here")
    disk = SmallDisk(path, size_kib)
    try:
        yield disk
    finally:
        disk.close()
