"""Many objects asked for at once: by listings where those cost less than a request for each. A listing names versions too, so
that what this machine has seen before is not fetched again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from orchestrator.store.base import Entry
from orchestrator.store.parallel import in_parallel
from orchestrator.store.s3_client import Listed, S3Client
from orchestrator.store.seen import SeenObjects

WORTH_A_PAGE = 24
"""A page of a listing (up to 1,000 names) costs about as much as so many requests that are made at once."""


class ManyObjects:
    """Objects of one store, `width` requests at once. `is_removed` tells content that marks an object as gone."""

    def __init__(
        self, client: S3Client, seen: Callable[[], SeenObjects], *, is_removed: Callable[[bytes], bool], width: int
    ) -> None:
        self._client = client
        self._seen = seen
        self._is_removed = is_removed
        self._width = width

    def read_many(self, paths: Iterable[str]) -> dict[str, Entry]:
        """Those that stand, by path; paths with the same first two parts are looked for in one listing."""
        folders: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            folders["/".join(path.split("/")[:2])].add(path)
        asked = {path for wanted in folders.values() if len(wanted) < WORTH_A_PAGE for path in wanted}
        large = [(folder, wanted) for folder, wanted in folders.items() if len(wanted) >= WORTH_A_PAGE]
        listed: dict[str, Listed] = {}
        for shown, unsure in in_parallel(lambda item: self._look(*item), large, width=self._width):
            listed |= shown
            asked |= unsure
        return dict(self.contents(listed, asked))

    def read_below(self, folder: str, file: str) -> Iterator[tuple[str, Entry]]:
        """(name, content) of every `folder/<name>/file`, a page of the listing at a time."""
        for page in self._client.pages(f"{folder}/", is_deep=True):
            found = {f"{folder}/{each.name}": each for each in page.listed if each.name.partition("/")[2] == file}
            for path, entry in self.contents(found):
                yield path[len(folder) + 1 : -len(file) - 1], entry

    def which_blobs(self, sizes: dict[str, set[tuple[str, int]]], has: Callable[[str, int], bool]) -> set[tuple[str, int]]:
        """Which of the blobs (digest and size, by path) stand with that size; `has` is a request for one."""
        shown, unsure = self._look("blobs", set(sizes)) if len(sizes) >= WORTH_A_PAGE else ({}, set(sizes))
        there = {blob for path, found in shown.items() for blob in sizes[path] if blob[1] == found.size_bytes}
        asked = [blob for path in unsure for blob in sizes[path]]
        answers = in_parallel(lambda blob: has(*blob), asked, width=self._width)
        return there | {blob for blob, is_there in zip(asked, answers, strict=True) if is_there}

    def _look(self, folder: str, wanted: set[str]) -> tuple[dict[str, Listed], set[str]]:
        """What a listing shows of `wanted`, and what it leaves open: it is given up where few of its names are of use.

        What is not in it where its order says that it should be does not stand. A server without that order is asked.
        """
        shown: dict[str, Listed] = {}
        last, is_ordered = "", True
        for page in self._client.pages(f"{folder}/", is_deep=True):
            names = [last, *(f"{folder}/{found.name}" for found in page.listed)]
            is_ordered = is_ordered and all(one < other for one, other in pairwise(names))
            here = {name: found for name, found in zip(names[1:], page.listed, strict=True) if name in wanted}
            shown |= here
            last = names[-1]
            if page.is_last:
                return shown, set() if is_ordered else wanted - shown.keys()
            if len(here) < WORTH_A_PAGE:
                break
        return shown, {path for path in wanted - shown.keys() if path > last or not is_ordered}

    def contents(self, listed: Mapping[str, Listed], asked: Iterable[str] = ()) -> Iterator[tuple[str, Entry]]:
        """(path, content) of what a listing has shown, by path, and of what is to be asked for, as far as it stands.

        Marks of what was removed are remembered too: some servers keep one for each lease that was ever held.
        """
        seen = self._seen()
        absent = list(asked)
        for path, found in listed.items():
            data = seen.find(path, found.version)
            if data is None or len(data) != found.size_bytes:
                absent.append(path)
            elif not self._is_removed(data):
                yield path, Entry(data, found.version, found.age_s)
        for path, entry in zip(absent, in_parallel(self._client.get, absent, width=self._width), strict=True):
            if entry is not None:
                seen.remember(path, entry.version, entry.data)
                if not self._is_removed(entry.data):
                    yield path, entry
