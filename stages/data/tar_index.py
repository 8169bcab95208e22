"""What a tar shard of WebDataset's layout holds, and where in it. No tensor library: planning asks.

Members of one image share a key, all of their path before the first dot of the file's name: `00/17.jpg` and `00/17.cls`. An
uncompressed tar can be read at any place once it is known what lies where.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, cast

from blake3 import blake3

from stages.data.folder_files import SUFFIXES

DIGEST_BYTES = 16
MAX_CLASSES = 1_000_000
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_NUMBER = re.compile(r"-?\d{1,18}")
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(kw_only=True)
class TarIndex:
    """The images of a shard in the order of their places: members, bytes, labels, and digests (hex, in one string)."""

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    digests: str = ""

    def content_digest(self) -> str:
        """Of names, labels and images."""
        hasher = blake3(self.digests.encode())
        for name, label in zip(self.names, self.labels, strict=True):
            hasher.update(f"{len(name.encode())}:{name}:{label}\n".encode())
        return hasher.hexdigest()

    def place_digest(self) -> str:
        """Of where the images lie, too."""
        return blake3(json.dumps(asdict(self)).encode()).hexdigest()


def image_digest(content: Any) -> bytes:
    """Of the encoded bytes of one image."""
    return blake3(content).digest(length=DIGEST_BYTES)


@dataclass(kw_only=True)
class _Sample:
    """What is known so far of the image with one key."""

    image: tarfile.TarInfo | None = None
    digest: bytes = b""
    label: int | None = None
    label_member: str = ""


def index_tar(file: BinaryIO, *, label_field: str | None) -> TarIndex:
    """What a shard holds; reads its images and labels, from the first to the last byte.

    Nothing is unpacked and nothing decoded but numbers and JSON; members of other kinds are passed over.

    Raises:
        ValueError: the tar is compressed, cut short or damaged, or an image or a label is missing, double or no number; the
            member is named.
    """
    samples: dict[str, _Sample] = {}
    label_kind = "cls" if label_field is None else "json"
    for member in _members(file):
        match = _KEY.fullmatch(member.name)
        if match is None or not (f".{match[2].lower()}" in SUFFIXES or match[2].lower() == label_kind):
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in member.name):
            raise ValueError(f"the name {member.name!r} is not UTF-8; write the shard with another name")
        if not member.isreg() or member.issparse():
            raise ValueError(f"{member.name} is a link or no plain file; write the shard with the files themselves")
        file.seek(member.offset_data)
        _take(samples.setdefault(match[1], _Sample()), member, file.read(member.size), label_field=label_field)
    if not samples:
        raise ValueError(f"it holds no images; expected a label beside each KEY with {', '.join(sorted(SUFFIXES))}")
    index, digests = TarIndex(), []
    for image, digest, label in sorted((_whole(sample, label_kind) for sample in samples.values()), key=_place):
        index.names.append(image.name)
        index.offsets.append(image.offset_data)
        index.sizes.append(image.size)
        index.labels.append(label)
        digests.append(digest)
    index.digests = b"".join(digests).hex()
    return index


def _take(sample: _Sample, member: tarfile.TarInfo, content: bytes, *, label_field: str | None) -> None:
    if f".{member.name.rpartition('.')[2].lower()}" in SUFFIXES:
        if sample.image is not None:
            raise ValueError(f"{sample.image.name} and {member.name} are two images of one key; expected one")
        sample.image, sample.digest = member, image_digest(content)
        return
    if sample.label is not None:
        raise ValueError(f"{sample.label_member} and {member.name} are two labels of one key; expected one")
    sample.label, sample.label_member = _label(content, member.name, field=label_field), member.name


def _whole(sample: _Sample, label_kind: str) -> tuple[tarfile.TarInfo, bytes, int]:
    if sample.image is None:
        raise ValueError(f"{sample.label_member} has no image beside it, which ends in {', '.join(sorted(SUFFIXES))}")
    if sample.label is None:
        name = sample.image.name
        hint = "; where labels are in KEY.json, set label_field" if label_kind == "cls" else ""
        raise ValueError(f"{name} has no label beside it; expected {name.rpartition('.')[0]}.{label_kind}{hint}")
    return sample.image, sample.digest, sample.label


def _place(found: tuple[tarfile.TarInfo, bytes, int]) -> int:
    return found[0].offset_data


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """All members, each with its content whole.

    Python's reader takes the end of the file, or a damaged header, for the end of the archive: what came after would be lost.

    Raises:
        ValueError: the archive is compressed, cut short or damaged.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    begin = file.read(8)
    kind = next((kind for magic, kind in _COMPRESSED.items() if begin.startswith(magic)), None)
    if kind is not None:
        raise ValueError(f"it is compressed ({kind}), so it cannot be read at any place; expected a plain tar: unpack it once")
    file.seek(0)
    end, last = 0, "its beginning"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if (
                    member.size < 0
                    or member.offset < end
                    or member.offset_data + (member.size if member.isreg() else 0) > length
                ):
                    raise ValueError(f"it is cut short or damaged in {member.name}: its {length} bytes end before that does")
                cast("Any", tar).members.clear()
                end, last = member.offset_data, member.name
                yield member
            end = tar.offset
    except (tarfile.TarError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is no tar, or cut short or damaged after {last} ({error}); copy or write it anew") from error
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise ValueError(f"it is cut short or damaged after {last}: the end of the archive is not there; copy or write it anew")


def _label(content: bytes, member: str, *, field: str | None) -> int:
    if field is None:
        text = content[:100].decode("utf-8", "replace").strip()
        if len(content) > 100 or not _NUMBER.fullmatch(text):
            raise ValueError(f"{member} says {text[:40]!r}; expected the number of a class")
        found = int(text)
    else:
        try:
            described = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{member} is no JSON ({error})") from error
        if not isinstance(described, dict) or field not in described:
            there = f"the fields {', '.join(map(str, described))}" if isinstance(described, dict) else "no fields"
            raise ValueError(f"{member} has {there}; expected {field}, which label_field names")
        found = described[field]
        if not isinstance(found, int) or isinstance(found, bool):
            raise ValueError(f"{member}: {field} is {str(found)[:40]!r}; expected the number of a class")
    if not 0 <= found < MAX_CLASSES:
        raise ValueError(f"{member} has the label {found}; expected 0 to {MAX_CLASSES - 1}")
    return found
