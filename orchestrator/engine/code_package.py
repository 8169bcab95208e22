"""This program's own code as a zip file, for machines that are to run it: the packages `orchestrator` and `stages`, no more.

What else a stage imports must be installed there. Equal code makes equal bytes, so that a cluster keeps one copy of it.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.store.blobs import digest_bytes

PACKAGES = ("orchestrator", "stages")
MAX_BYTES = 32 * 2**20
"""Far above what code needs: data or weights that lie in a package folder by mistake must not travel with every job."""

_LEFT_OUT = ("__pycache__", ".pyc", ".pyo", ".so", "~", ".swp")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of zip files: times of files are no part of the content


@dataclass(frozen=True)
class CodePackage:
    """The zip file, and the name that tells it from a package with other code."""

    name: str
    data: bytes


@cache
def code_package() -> CodePackage:
    """The package of the code that runs now. Raises ClusterError where it is larger than `MAX_BYTES`."""
    packed = io.BytesIO()
    _refuse_data()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in _files():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    data = packed.getvalue()
    return CodePackage(f"_ray_pkg_orchestrator_{digest_bytes(data)[:32]}.zip", data)


def _refuse_data() -> None:
    sizes = sorted(((file.stat().st_size, file) for _, file in _files()), reverse=True)
    total = sum(size for size, _ in sizes)
    if total > MAX_BYTES:
        largest = ", ".join(f"{file} ({size / 2**20:.1f} MiB)" for size, file in sizes[:3])
        raise ClusterError(
            f"the code to send has {total / 2**20:.1f} MiB; expected source files only, at most {MAX_BYTES // 2**20} MiB. "
            f"The largest: {largest}",
            next_step=f"move data and weights out of {sizes[0][1].parent}",
        )


def _files() -> Iterator[tuple[str, Path]]:
    """Name in the package and place of every file, in order."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(next(iter(spec.submodule_search_locations)))
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root)
            is_hidden = any(part.startswith(".") for part in inside.parts)
            if file.is_file() and not is_hidden and not any(part.endswith(_LEFT_OUT) for part in inside.parts):
                yield f"{package}/{inside.as_posix()}", file
