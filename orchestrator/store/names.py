"""Names and pins: what people want to keep, and what to call it. Both keep `gc` from an artifact and from its inputs.

names/<name>/<version>   which artifact the version means; created once, never overwritten: the next one is the next version.
                         A version that was taken away stays as a mark of that, so that it never means another artifact
pins/<key>               keep this artifact, without a name
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import UsageError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.store.base import Entry, Store
from orchestrator.store.claims import Claims
from orchestrator.store.ledger import now_text
from orchestrator.store.parallel import in_parallel

FORMAT = 1
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_REFERENCE = re.compile(r"([a-z][a-z0-9._-]{0,63})(?:@([1-9][0-9]{0,8}))?")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A version of a name, or a pin (whose `name` is empty): which artifact it means, and why."""

    key: str
    stage: str
    name: str = ""
    version: int = 0
    note: str = ""
    created: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.name else f"pin of {self.key[:8]}"


class Names:
    """Names and pins of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def promote(self, record: Record, name: str, *, note: str = "") -> Mark:
        """Give the artifact the next version of `name`; the newest one again where it means this artifact already."""
        check_name(name)
        while True:
            versions = self.versions(name)
            if versions and versions[-1].key == record.key:
                return versions[-1]
            taken = [int(version) for version in self.store.list(f"names/{name}") if version.isdigit()]
            mark = Mark(
                key=record.key, stage=record.stage, name=name, version=max(taken, default=0) + 1, note=note, created=now_text()
            )
            if self._create(f"names/{name}/{mark.version}", mark):
                return mark

    def pin(self, record: Record, *, note: str = "") -> Mark:
        """Keep the artifact; the pin that stands where it has one."""
        mark = Mark(key=record.key, stage=record.stage, note=note, created=now_text())
        path = f"pins/{record.key}"
        return mark if self._create(path, mark) else (_decode(self.store.read(path)) or mark)

    def unpin(self, key: str) -> bool:
        """Take the pin away; False if there was none."""
        return self.store.delete(f"pins/{key}")

    def find(self, text: str) -> Mark | None:
        """What "name" (its newest version) or "name@3" means; None if it is no name of this store."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return None
        if match[2]:
            return _decode(self.store.read(f"names/{match[1]}/{match[2]}"))
        return next(reversed(self.versions(match[1])), None)

    def unname(self, mark: Mark) -> bool:
        """Take a version of a name away, for good; False if it means nothing any more, or has changed."""
        path = f"names/{mark.name}/{mark.version}"
        entry = self.store.read(path)
        if entry is None or _decode(entry) != mark:
            return False
        taken_away = json.dumps({"format": FORMAT, "removed": now_text(), "meant": mark.key}).encode()
        return self.store.replace(path, taken_away, version=entry.version) is not None

    def versions(self, name: str) -> list[Mark]:
        """Every version of a name, oldest first."""
        return self._marks(self._paths(name))

    def all_names(self) -> list[Mark]:
        """Every version of every name, by name, oldest first."""
        folders = in_parallel(self._paths, sorted(self.store.list("names")), width=self.store.width)
        return self._marks([path for paths in folders for path in paths])

    def all_pins(self) -> list[Mark]:
        """Every pin, oldest first."""
        marks = self._marks([f"pins/{key}" for key in self.store.list("pins")])
        return sorted(marks, key=lambda mark: (mark.created, mark.key))

    def _paths(self, name: str) -> list[str]:
        numbers = sorted(int(version) for version in self.store.list(f"names/{name}") if version.isdigit())
        return [f"names/{name}/{number}" for number in numbers]

    def _marks(self, paths: list[str]) -> list[Mark]:
        entries = self.store.read_many(paths)
        found = (_decode(entries.get(path)) for path in paths)
        return [mark for mark in found if mark is not None]

    def kept_keys(self) -> Iterator[tuple[str, str]]:
        """(key, why it is kept) of everything that has a name or a pin."""
        for mark in (*self.all_pins(), *self.all_names()):
            yield mark.key, f"named {mark}" if mark.name else "pinned"

    def _create(self, path: str, mark: Mark) -> bool:
        """False if there is one. What `gc` is about to remove is not marked: UsageError once it is gone."""
        version = self.store.create(path, json.dumps({"format": FORMAT, **vars(mark)}, sort_keys=True).encode())
        if version is None:
            return False
        Claims(self.store).wait_for_gc(key=mark.key)
        if Artifacts(self.store).find(mark.stage, mark.key) is None:
            self.store.delete(path, version=version)
            raise UsageError(
                f"artifact {mark.key[:8]} of {mark.stage} is gone from the store", next_step="submit its workflow again"
            )
        return True


def check_name(name: str) -> None:
    """UsageError unless `name` can be a name: plain everywhere, and never to be taken for the beginning of a key."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f'"{name}" cannot be a name; expected a small letter, then small letters, digits, ".", "_" and "-", at most 64',
            next_step="orchestrator artifacts promote KEY vit-sparse",
        )
    if _HEX.fullmatch(name):
        raise UsageError(
            f'"{name}" could be the beginning of a key; a name needs a letter after f, or a "-"',
            next_step=f"orchestrator artifacts promote KEY model-{name}",
        )


def _decode(entry: Entry | None) -> Mark | None:
    if entry is None:
        return None
    try:
        content = json.loads(entry.data)
        return Mark(**content) if content.pop("format") == FORMAT else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
