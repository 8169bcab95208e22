"""Who holds something: a process named so that another process on the same machine can tell whether it still lives."""

from __future__ import annotations

import os
import uuid
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def host_identity() -> str:
    """This boot of this machine and its process namespace: only with both equal do process ids mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return f"{uuid.getnode():012x}"
    return f"{boot.replace('-', '')[:16]}{namespace}"


def process_started(process_id: int) -> str:
    """When the process started, as a text to compare (process ids are reused); empty if there is no such process."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        return _process_started_by_psutil(process_id)
    except ProcessLookupError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in (b"Z", b"X") else started.decode()


def _process_started_by_psutil(process_id: int) -> str:
    import psutil  # systems without /proc

    try:
        return str(psutil.Process(process_id).create_time())
    except psutil.Error:
        return ""


@lru_cache(maxsize=1)
def _mark(process_id: int) -> str:
    return f"{host_identity()}-{process_id}-{process_started(process_id)}"


def process_mark() -> str:
    """This process as part of a file name, told apart from a later one with the same number."""
    return _mark(os.getpid())  # asked by number, since a fork changes it


def is_left_by_dead_process(name: str) -> bool:
    """Whether a name that begins with a process mark and "-" belongs to a process of this machine that is gone."""
    host, process, started, *_ = [*name.split("-", 3), "", "", ""]
    return host == host_identity() and process.isdigit() and not process_is_alive(int(process), started)


def process_is_alive(process_id: int, started: str = "") -> bool:
    """Whether the process runs (a zombie does not) and, where given, is the one that started then."""
    found = process_started(process_id)
    if found:
        return not started or found == started
    try:
        os.kill(process_id, 0)
    except PermissionError:
        return True  # another user's, hidden from us (`hidepid`): taken for alive, since that costs waiting only
    except (OSError, OverflowError):
        return False
    return False  # a zombie
