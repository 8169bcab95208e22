"""The packed form of an image data set: Parquet shards and `dataset.json`, which names and vouches for them. No tensor library.

Each shard is a Parquet file with the columns image (the encoded file), label and name. Its row groups are what is read at
once; the manifest has a digest of the content of each, so that what is read is checked as it comes, from a disk or a bucket.
The data set is known by the digest of these digests: it does not depend on the release of the library that wrote the files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MANIFEST_FILE = "dataset.json"

OpenFile = Callable[[str], Any]
"""From the name of a shard to a file that pyarrow can read at any place."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowGroup(_Part):
    """Images that are read at once."""

    rows: int = Field(ge=1)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(_Part):
    """One Parquet file."""

    file: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*\.parquet$")
    groups: tuple[RowGroup, ...] = Field(min_length=1)


class Manifest(_Part):
    """What `dataset.json` says. `splits`: "train" and "test", each with its shards in order."""

    format: Literal[1] = 1
    classes: tuple[str, ...] = Field(min_length=1)
    splits: dict[Literal["train", "test"], tuple[Shard, ...]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is listed twice")
        if "train" not in self.splits:
            raise ValueError("no split train")
        return self

    def content_digest(self) -> str:
        """Digest of classes, splits and the content of every row group."""
        hasher = blake3()
        for name in self.classes:
            hasher.update(f"class {len(name.encode())}:{name}\n".encode())
        for split in sorted(self.splits):
            hasher.update(f"split {split}\n".encode())
            for shard in self.splits[split]:
                for group in shard.groups:
                    hasher.update(f"{group.rows} {group.digest}\n".encode())
        return hasher.hexdigest()


def group_digest(rows: Iterable[tuple[Any, int, str]]) -> str:
    """Digest of a row group: (encoded image, label, name) for each row, with their lengths."""
    hasher = blake3()
    for image, label, name in rows:
        text = name.encode()
        hasher.update(struct.pack("<qqq", label, len(text), memoryview(image).nbytes))
        hasher.update(text)
        hasher.update(image)
    return hasher.hexdigest()


def parse_manifest(text: bytes, *, place: str) -> Manifest:
    """The manifest; raises ValueError where it is none."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "whole file"
        raise ValueError(f"{place} is no manifest of packed images ({where}: {first['msg']}); data.pack writes one") from error


def read_manifest(path: str) -> Manifest:
    """The manifest of the packed data set in a folder or under s3://bucket/prefix.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    place = f"{path}/{MANIFEST_FILE}"
    try:
        if path.startswith("s3://"):
            with folder_opener(path)(MANIFEST_FILE) as file:
                text = bytes(file.read())
        else:
            text = Path(place).read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"no {place}: it names the shards of a packed data set. Pack images with a data.pack node, then "
            "`orchestrator artifacts get RUN/NODE FOLDER` copies the shards and their manifest to a folder"
        ) from None
    except OSError as error:
        hint = "; check AWS_PROFILE, AWS_ENDPOINT_URL and AWS_REGION" if path.startswith("s3://") else ""
        raise ValueError(f"{place} cannot be read ({' '.join(str(error).split())}){hint}") from error
    return parse_manifest(text, place=place)


def folder_opener(path: str) -> OpenFile:
    """Opens files of a folder or of s3://bucket/prefix by their names."""
    from pyarrow import fs

    if not path.startswith("s3://"):
        local = fs.LocalFileSystem()
        return lambda name: local.open_input_file(str(Path(path) / name))
    bucket, _, prefix = path.removeprefix("s3://").partition("/")
    remote = _s3(bucket)
    return lambda name: remote.open_input_file("/".join(part for part in (bucket, prefix, name) if part))


def _s3(bucket: str) -> Any:
    """A connection by the usual AWS variables, which pyarrow reads but for these two."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    if not endpoint:
        return fs.S3FileSystem(region=region)
    # Some servers answer a range with the checksum of the whole object; what is read has digests of ours.
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(region=region, endpoint_override=host.rstrip("/"), scheme=scheme or "https")
