"""Files of a folder or of s3://bucket/prefix, by their names in there. No tensor library, and pyarrow for a bucket alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

OpenFile = Callable[[str], Any]
"""From the name of a file to one that pyarrow can read at any place."""


def folder_opener(path: str) -> OpenFile:
    """Opens files of a folder or of s3://bucket/prefix by their names."""
    files, base = _files_of(path)
    return lambda name: files.open_input_file(f"{base}/{name}")


def files_in(path: str, folder: str) -> list[str]:
    """Names, without the folder's, of the files of a folder in `path` ("" for `path` itself), sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: it cannot be read.
    """
    if not path.startswith("s3://"):
        return sorted(entry.name for entry in os.scandir(Path(path) / folder) if entry.is_file())
    from pyarrow import fs

    files, base = _files_of(path)
    found = files.get_file_info(fs.FileSelector(f"{base}/{folder}".rstrip("/")))
    return sorted(file.base_name for file in found if file.type == fs.FileType.File)


def object_mark(opened: Any) -> list[Any]:
    """By what an opened object of a bucket is known to be unchanged: its size, 0, and what every write sets anew."""
    said = opened.metadata()
    return [opened.size(), 0, f"{said['Last-Modified'].decode()} {said['ETag'].decode()}"]


def _files_of(path: str) -> tuple[Any, str]:
    from pyarrow import fs

    if not path.startswith("s3://"):
        return fs.LocalFileSystem(), path
    where = path.removeprefix("s3://").strip("/")
    return _s3(where.partition("/")[0]), where


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
