"""Files of a folder or of s3://bucket/prefix, by their names in there. No tensor library, and pyarrow for a bucket alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stages.data.file_digests import Mark, file_mark, remembered_digests

OpenFile = Callable[[str], Any]
"""From the name of a file to one that pyarrow can read at any place."""
_ASKERS = 32
"""Shards of which it is asked at a time whether they are unchanged: in a bucket each is a request."""


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


def shard_names(path: str, pattern: str) -> list[str]:
    """The files in `path` that `pattern` names, sorted; wildcards are in its last part only.

    Raises:
        ValueError: there are none, or the folder cannot be read.
    """
    folder, _, wanted = pattern.rpartition("/")
    place = f"{path}/{folder}".rstrip("/")
    try:
        there = files_in(path, folder)
    except FileNotFoundError:
        raise ValueError(f"no folder {place}; check `path`, and `train` and `test`, which name shards in it") from None
    except OSError as error:
        hint = "; check AWS_PROFILE, AWS_ENDPOINT_URL and AWS_REGION" if place.startswith("s3://") else ""
        raise ValueError(f"{place} cannot be listed ({' '.join(str(error).split())}){hint}") from error
    found = [f"{folder}/{name}".lstrip("/") for name in there if fnmatchcase(name, wanted)]
    if not found:
        some = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise ValueError(
            f"no shards {wanted} in {place}; it has {some or 'no files'}. Say which with `train` and `test` (test: null if "
            "there are no test images)"
        )
    return found


def shard_mark(path: str, name: str) -> Mark:
    """By what a file of `path` is known to be unchanged.

    Raises:
        ValueError: it cannot be read.
    """
    if not path.startswith("s3://"):
        return file_mark(f"{path}/{name}")
    try:
        with folder_opener(path)(name) as opened:
            return object_mark(opened)
    except OSError as error:
        raise ValueError(f"{path}/{name} cannot be read ({' '.join(str(error).split())})") from error


def shard_digests(memo: str, path: str, names: Sequence[str], digest: Callable[[str], str]) -> dict[str, str]:
    """What `digest` finds in each shard, remembered by this machine under the name `memo` while the shard stays as it is.

    Raises:
        ValueError: a shard cannot be read.
    """
    with ThreadPoolExecutor(_ASKERS) as pool:
        marks = dict(zip(names, pool.map(lambda name: shard_mark(path, name), names), strict=True))
    found = remembered_digests(memo, marks, mark=lambda name: shard_mark(path, name), digest=digest)
    return {name: digest for name, (_, digest) in found.items()}


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
