"""The digest of a stage's own source: its module and the first-party modules that it imports, however deep.

Code is not part of a key (a comment must not cost a GPU week); each record holds this digest, and a hit made by other code
is shown as drift. The modules are found by reading import statements, never by importing: planning loads no torch.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from orchestrator.store.blobs import digest_bytes

_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([\w., \t]+))", re.MULTILINE
)


@cache
def source_digest(implementation: str) -> str:
    """Digest of the source behind "package.module:function"; empty where the source cannot be found (a compiled package)."""
    module = implementation.partition(":")[0]
    package = module.partition(".")[0]
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        found = _read_module(name)
        if found is None:
            continue
        seen[name], imported = found
        waiting.extend(other for other in imported if other == package or other.startswith(f"{package}."))
    if not seen:
        return ""
    return digest_bytes("".join(f"{name} {seen[name]}\n" for name in sorted(seen)).encode())


@cache
def _read_module(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Digest of the module's text, and what it may import: `from a import b` counts as a and as a.b."""
    path = _module_file(name)
    if path is None:
        return None
    text = path.read_bytes()
    imported: list[str] = []
    for source, names, plain in _IMPORT.findall(text):
        if source:
            imported.append(source.decode())
            words = re.findall(rb"\w+(?:[ \t]+as[ \t]+\w+)?", names)
            imported.extend(f"{source.decode()}.{word.split()[0].decode()}" for word in words)
        else:
            imported.extend(part.split()[0] for part in plain.decode().split(",") if part.split())
    return digest_bytes(text), tuple(imported)


def _module_file(name: str) -> Path | None:
    root = _package_folder(name.partition(".")[0])
    if root is None:
        return None
    base = root.joinpath(*name.split(".")[1:])
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _package_folder(package: str) -> Path | None:
    module = sys.modules.get(package)
    if module is None:
        return None
    places = list(getattr(module, "__path__", []))
    return Path(places[0]) if places else None
