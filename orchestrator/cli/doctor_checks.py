"""The checks behind `doctor`. Each says what it found, and what to do where that is not enough; none imports ray or torch
unless it was asked to.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.report.text import format_bytes, plural
from orchestrator.store.base import Store

OK, WARN, FAIL = "OK", "WARN", "FAIL"
PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
MIN_FREE_DISK, SCARCE_DISK = 200 * 2**20, 5 * 2**30
SCARCE_MEMORY = 2 * 2**30
SHM_WANTED = 256 * 2**20
OPEN_FILES_WANTED = 4096
SOCKET_PATH_LIMIT = 107
RAY_PATH = "/orc123456-1234567/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""The longest path of a socket that Ray makes below the temporary folder."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: OK, WARN or FAIL, what was found, and what to do about it."""

    name: str
    word: str
    found: str
    fix: str = ""


def run_checks(store: Store, *, starts_ray: bool, loads_torch: bool) -> Iterator[Check]:
    """All checks, each as soon as it is done."""
    yield _python()
    yield from _packages()
    yield _stages()
    yield _processors()
    yield _memory()
    yield _open_files()
    yield _disk(store)
    yield _store(store)
    yield _shared_memory()
    yield _temporary_folder()
    yield _gpus()
    if loads_torch:
        yield _torch()
    if starts_ray:
        yield _ray()


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = f"{'.'.join(map(str, PYTHON_FROM))} to {PYTHON_BELOW[0]}.{PYTHON_BELOW[1] - 1}"
    if PYTHON_FROM <= sys.version_info[:2] < PYTHON_BELOW:
        return Check("python", OK, f"{found} at {sys.executable}")
    return Check("python", FAIL, f"{found}; expected {wanted}", f"install Python {wanted} and make a new environment with it")


def _packages() -> Iterator[Check]:
    """Every declared requirement, and the tested versions where the constraints file is at hand."""
    from importlib import metadata

    try:
        requirements = [text for text in metadata.requires("orchestrator") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        yield Check(
            "packages", FAIL, "orchestrator is not installed in this environment", "pip install -e . -c constraints.txt"
        )
        return
    missing, wrong, found = [], [], {}
    for requirement in requirements:
        name, bounds = _parse_requirement(requirement)
        try:
            found[name.lower()] = version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if not _meets(version, bounds):
            wrong.append(f"{name} {version} (needs {bounds})")
    install = "pip install -e . -c constraints.txt"
    if missing or wrong:
        text = "; ".join(filter(None, [f"missing {', '.join(missing)}" if missing else "", ", ".join(wrong)]))
        yield Check("packages", FAIL, text, install)
    else:
        shown = ", ".join(f"{name} {found[name]}" for name in ("ray", "torch", "timm", "onnxruntime") if name in found)
        yield Check("packages", OK, f"all {len(found)} requirements are met: {shown}")
    differing = [
        f"{name} {found[name]} (tested {version})"
        for name, version in _constraints().items()
        if found.get(name, version).partition("+")[0] != version
    ]
    if differing:
        yield Check("tested versions", WARN, ", ".join(differing), f"for the tested versions: {install}")


def _constraints() -> dict[str, str]:
    file = Path(__file__).resolve().parents[2] / "constraints.txt"
    if not file.is_file():
        return {}
    lines = [line.partition("#")[0].partition(";")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("==") for line in lines if "==" in line]
    return {name.strip().lower(): version.strip() for name, _, version in pairs}


def _parse_requirement(text: str) -> tuple[str, str]:
    """Name and bounds of "ray[train]<2.61,>=2.60"."""
    text = text.partition(";")[0].strip()
    name = text
    for index, letter in enumerate(text):
        if letter in "[<>=!~ (":
            name = text[:index]
            break
    bounds = text[len(name) :].strip()
    return name, bounds.partition("]")[2] if bounds.startswith("[") else bounds


def _meets(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ">=2.60,<2.61"; a bound of another form is taken as met."""
    found = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        bound = bound.strip()  # noqa: PLW2901 - the same bound, tidied
        if bound.startswith(">=") and found < _numbers(bound[2:]):
            return False
        if bound.startswith("<") and not bound.startswith("<=") and found >= _numbers(bound[1:]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.partition("+")[0].split("."):
        digits = "".join(letter for letter in part if letter.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _stages() -> Check:
    from stages import catalog

    try:
        found = catalog.all_stages()
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; that is what is being looked for
        return Check(
            "stages", FAIL, f"the catalogue does not load: {type(error).__name__}: {error}",
            f"mend or uninstall the package that offers the entry point {catalog.ENTRY_POINT_GROUP}",
        )  # fmt: skip
    return Check("stages", OK, f"{plural(len(found), 'stage')} of {len({name.partition('.')[0] for name in found})} kinds")


def _processors() -> Check:
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    if usable < count:
        return Check(
            "cpus", WARN, f"{count} CPUs, of which this process may use {usable}",
            f"expect the speed of {usable}; Ray is told {count} and will share them",
        )  # fmt: skip
    return Check("cpus", OK, plural(count, "CPU"))


def _memory() -> Check:
    facts = {}
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - a kernel file, read in one go
        for line in file:
            name, _, rest = line.partition(":")
            facts[name] = int(rest.split()[0]) * 1024
    free = facts.get("MemAvailable", 0)
    found = f"{format_bytes(free)} free of {format_bytes(facts.get('MemTotal', 0))}"
    if free < SCARCE_MEMORY:
        return Check("memory", WARN, found, "close other programs, or run one node at a time: submit --executor inline")
    return Check("memory", OK, found)


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        return Check("open files", WARN, f"at most {soft}; Ray wants {OPEN_FILES_WANTED}", f"ulimit -n {OPEN_FILES_WANTED}")
    return Check("open files", OK, f"at most {soft}" if soft != resource.RLIM_INFINITY else "no limit")


def _disk(store: Store) -> Check:
    place = store.workspace("", make=False)  # on S3: the cache, in which artifacts are made and kept at hand
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{format_bytes(free)} free at {place}"
    if free < MIN_FREE_DISK:
        return Check("disk", FAIL, found, "free some space there, or keep artifacts elsewhere: --store FOLDER")
    return Check(
        "disk", WARN if free < SCARCE_DISK else OK, found, "watch it: large models need more" if free < SCARCE_DISK else ""
    )


def _store(store: Store) -> Check:
    """Writes, a conditional create that must be refused, a replace under a lock, a read; and how long they take."""
    if store.url.startswith("s3://"):
        from orchestrator.cli.doctor_s3 import s3_check

        return s3_check(store)
    root = Path(store.url.removeprefix("file://"))
    is_new = not root.exists()
    path = f"doctor/{os.getpid()}-{time.time_ns()}"
    began_s = time.perf_counter()
    try:
        version = store.create(path, b"1")
        created_s = time.perf_counter()
        second = store.create(path, b"2")
        replaced = store.replace(path, b"3", version=version or "")
        entry = store.read(path)
        changed_s = time.perf_counter()
        store.delete(path)
    except Exception as error:  # noqa: BLE001 - whatever a file system does not like is the finding
        return Check("store", FAIL, f"{store.url}: {error}", "choose a folder that you may write to: --store FOLDER")
    finally:
        if is_new:
            _remove_empty_folders(root)
    if version is None or second is not None or replaced is None or entry is None or entry.data != b"3":
        return Check(
            "store", FAIL, f"{store.url}: this file system does not keep the promises of links, renames and locks",
            "keep the store on a local disk, or on a network file system with locks: --store FOLDER",
        )  # fmt: skip
    create_ms, rest_ms = (created_s - began_s) * 1e3, (changed_s - created_s) * 1e3
    return Check("store", OK, f"{store.url}: create {create_ms:.1f} ms, refuse, replace and read {rest_ms:.1f} ms")


def _remove_empty_folders(root: Path) -> None:
    """Leave nothing where there was no store; rmdir refuses what somebody else has put there meanwhile."""
    for folder, _, files in os.walk(root, topdown=False):
        try:
            for file in files:
                if Path(folder).name == "locks":
                    (Path(folder) / file).unlink()
            Path(folder).rmdir()
        except OSError:
            continue


def _shared_memory() -> Check:
    place = Path("/dev/shm")  # noqa: S108 - the very folder that Ray uses
    if not place.is_dir():
        return Check("shared memory", WARN, "no /dev/shm; Ray will use slower files", "in a container: --shm-size=1g")
    usage = shutil.disk_usage(place)
    found = f"{format_bytes(usage.free)} free in /dev/shm"
    if usage.free < SHM_WANTED:
        return Check("shared memory", WARN, f"{found}; Ray wants {format_bytes(SHM_WANTED)}", "in a container: --shm-size=1g")
    return Check("shared memory", OK, found)


def _temporary_folder() -> Check:
    place = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile(prefix="orchestrator-doctor-"):
            pass
    except OSError as error:
        return Check("temporary", FAIL, f"cannot write to {place}: {error.strerror}", "export TMPDIR=/tmp")
    if len(place + RAY_PATH) > SOCKET_PATH_LIMIT:
        limit = SOCKET_PATH_LIMIT - len(RAY_PATH)
        return Check(
            "temporary", FAIL, f"{place} is {len(place)} bytes long; the paths of Ray's sockets leave room for {limit}",
            "export TMPDIR=/tmp",
        )  # fmt: skip
    return Check("temporary", OK, place)


def _gpus() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpus", OK, "none seen (no nvidia-smi); everything runs on the CPU")
    try:
        done = subprocess.run(  # noqa: S603 - the program that `which` found
            [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpus", WARN, f"nvidia-smi fails: {error}", "reinstall or reload the NVIDIA driver")
    rows = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return Check("gpus", OK, f"{plural(len(rows), 'GPU')}: {'; '.join(rows)}" if rows else "none")


def _torch() -> Check:
    began_s = time.perf_counter()
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - broken installations raise OSError, ImportError and worse
        return Check("torch", FAIL, f"does not import: {error}", "pip install -e . -c constraints.txt")
    loaded_s = time.perf_counter() - began_s
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("torch", OK, f"{torch.__version__}, loaded in {loaded_s:.1f} s, GPUs: {', '.join(gpus) or 'none'}")


def _process_id() -> int:
    """Runs in a process of Ray's, which has to import this module for it: so the environment is tried too."""
    return os.getpid()


def _ray() -> Check:
    from orchestrator.engine import cluster
    from orchestrator.errors import ClusterError

    began_s = time.perf_counter()
    try:
        ray = cluster.start_local(num_cpus=1)
    except ClusterError as error:
        return Check("ray", FAIL, error.message, "see the lines above; or run without Ray: submit --executor inline")
    try:
        started_s = time.perf_counter()
        answer = ray.get(ray.remote(_process_id).remote(), timeout=60)
        ended_s = time.perf_counter()
    except Exception as error:  # noqa: BLE001 - Ray raises whatever its parts raise
        return Check("ray", FAIL, f"started, but ran nothing: {error}", "or run without Ray: submit --executor inline")
    finally:
        cluster.stop(ray)
    assert answer != os.getpid()
    return Check("ray", OK, f"started in {started_s - began_s:.1f} s, first process answered after {ended_s - started_s:.1f} s")
