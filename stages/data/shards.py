"""The packed form of an image data set: Parquet shards and `dataset.json`, which names and vouches for them. No tensor library.

Each shard is a Parquet file with the columns image (the encoded file, or the numbers of latents), label and name. Its row
groups are what is read at once; the manifest has a digest of the content of each, so that what is read is checked as it comes,
from a disk or a bucket. The data set is known by the digest of these digests: it does not depend on the release of the library
that wrote the files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.data.places import folder_opener

MANIFEST_FILE = "dataset.json"


Size = Annotated[int, Field(ge=1)]


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
    """What `dataset.json` says. `splits`: "train" and "test", each with its shards in order.

    `latents`: (channels, height, width) of what is stored in place of encoded images.
    """

    format: Literal[1] = 1
    classes: tuple[str, ...] = Field(min_length=1)
    splits: dict[Literal["train", "test"], tuple[Shard, ...]]
    latents: tuple[Size, Size, Size] | None = None

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
        if self.latents is not None:
            hasher.update(f"latents {self.latents}\n".encode())
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
