"""The tar shards of a data set: which there are, and what they are known by. No tensor library: planning asks.

To find out what a shard holds it is read once, and each image digested on the way; this machine remembers both. The digest of a
shard is that of its images, names and labels: times and owners in the tar have no part in it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from stages.data.file_digests import remembered_file, write_remembered
from stages.data.places import folder_opener, shard_digests, shard_names
from stages.data.tar_index import TarIndex, index_tar

FORMAT = 1
_READ_AHEAD = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class TarShards:
    """Shards of one split: those that `pattern` names in a folder or under s3://bucket/prefix.

    Attributes:
        pattern: of their names, wildcards in its last part only.
        label_field: field of the labels in members `KEY.json`; none: the labels are in `KEY.cls`.
    """

    path: str
    pattern: str
    label_field: str | None

    def content_digest(self) -> str:
        """Digest of the shards' images in their order; what the shards are called has no part in it."""
        return blake3("\n".join(found.partition("-")[0] for found in self._digests().values()).encode()).hexdigest()

    def indexes(self) -> Iterator[tuple[str, TarIndex]]:
        """Each shard and what it holds, reading only shards that this machine does not remember."""
        for name, found in self._digests().items():
            place_digest = found.partition("-")[2]
            with suppress(OSError, ValueError, TypeError):
                index = TarIndex(**json.loads(_index_file(place_digest).read_bytes()))
                if index.place_digest() == place_digest:
                    yield name, index
                    continue
            yield name, self._read(name)

    def _digests(self) -> dict[str, str]:
        """Shard -> "CONTENT-PLACES", both digests."""

        def digest(name: str) -> str:
            index = self._read(name)
            place_digest = index.place_digest()
            write_remembered(_index_file(place_digest), asdict(index))
            return f"{index.content_digest()}-{place_digest}"

        memo = f"webdataset {FORMAT}, labels {self.label_field or '.cls'}: {self.path}/{self.pattern}"
        return shard_digests(memo, self.path, shard_names(self.path, self.pattern), digest)

    def _read(self, name: str) -> TarIndex:
        place = f"{self.path}/{name}"
        try:
            raw = folder_opener(self.path)(name) if self.path.startswith("s3://") else Path(place).open("rb", buffering=0)  # noqa: SIM115
            with raw, io.BufferedReader(raw, _READ_AHEAD) as file:
                return index_tar(file, label_field=self.label_field)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        except OSError as error:
            raise ValueError(f"{place} cannot be read ({' '.join(str(error).split())})") from error


def _index_file(place_digest: str) -> Path:
    return remembered_file(f"index {place_digest}")
