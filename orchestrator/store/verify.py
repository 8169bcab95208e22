"""Every byte of artifacts read again where the store keeps it, and held against its digest.

Memory does not grow with files, nor much with artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from orchestrator.errors import IntegrityError
from orchestrator.store.artifacts import Artifacts, content_digest, record_path
from orchestrator.store.base import Entry, Store
from orchestrator.store.record_file import FORMAT, BadRecord, Record, decode_record


@dataclass(frozen=True)
class Damage:
    """One artifact that is not whole, and what is wrong with it."""

    stage: str
    key: str
    what: str


@dataclass
class VerifyResult:
    """How it went. `read_bytes` counts a blob once, however many artifacts have it."""

    num_sound: int = 0
    read_bytes: int = 0
    problems: list[Damage] = field(default_factory=list)


def verify_artifacts(
    store: Store, wanted: Iterable[tuple[str, str]] | None, *, advance: Callable[[int, int, int], None] = lambda *_: None
) -> VerifyResult:
    """Verify artifacts by (stage, key), or all; damaged ones are set aside.

    `advance(done, total, read_bytes)` is called after each artifact. A record of a format that a later version wrote is
    reported and left where it is.
    """
    places = list(wanted) if wanted is not None else [(stage, key) for stage, key in _all_places(store)]
    check, result = _Check(store), VerifyResult()
    for number, (stage, key) in enumerate(places, 1):
        entry = store.read(record_path(stage, key))
        if entry is not None:
            what = check.problem_of(stage, key, entry)
            if what:
                result.problems.append(Damage(stage, key, what))
            else:
                result.num_sound += 1
        elif wanted is not None:
            result.problems.append(Damage(stage, key, "there is no such artifact in the store"))
        result.read_bytes = check.read_bytes
        advance(number, len(places), result.read_bytes)
    return result


def _all_places(store: Store) -> Iterable[tuple[str, str]]:
    for stage in sorted(store.list("artifacts")):
        for key in sorted(store.list(f"artifacts/{stage}")):
            yield stage, key


class _Check:
    """Looks at one artifact after the other; a blob that several have is read once."""

    def __init__(self, store: Store) -> None:
        self.artifacts = Artifacts(store)
        self.read_bytes = 0
        self._whole: set[str] = set()

    def problem_of(self, stage: str, key: str, entry: Entry) -> str:
        """What is wrong with the artifact, which is then set aside; empty if nothing is."""
        try:
            record = decode_record(entry.data, stage=stage, key=key)
        except BadRecord as error:
            if error.found_format in (None, FORMAT):
                self.artifacts.set_aside_record(stage, key, entry)
            return f"its record cannot be used: {error}"
        problems = [what for name in record.files if (what := self._problem_of_file(record, name))]
        if problems:
            self.artifacts.set_aside(record)
        elif content_digest(record.files, record.metrics) != record.content_digest:
            problems = ["its files and metrics do not match the digest of its content"]
            self.artifacts.set_aside_record(stage, key, entry)
        return "; ".join(problems)

    def _problem_of_file(self, record: Record, name: str) -> str:
        file = record.files[name]
        if file.digest in self._whole:
            return ""
        store = self.artifacts.store
        try:
            store.verify_blob(file.digest, file.size_bytes)
        except FileNotFoundError:
            return f"{name} is missing"
        except IntegrityError:
            return f"{name} is damaged"
        self.read_bytes += file.size_bytes
        self._whole.add(file.digest)
        return ""
