"""One bucket and prefix as a handful of plain requests. Knows no blobs, logs or leases.

No credentials are kept here, and messages carry the server's code and words only.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from orchestrator.errors import StoreError, UsageError
from orchestrator.store.base import Entry, Upload
from orchestrator.store.s3_connect import MAX_ATTEMPTS, connect

_CONFLICT_TRIES = 8
_ABSENT = ("404", "NoSuchKey", "NotFound", "NoSuchUpload")
_REFUSED = ("412", "PreconditionFailed")
_CONFLICT = ("409", "ConditionalRequestConflict", "OperationAborted")
_OVERLOADED = ("SlowDown", "RequestTimeout", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequests")
_NOT_IMPLEMENTED = "501"
_WRITER = "writer"

Answer = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A bucket and the beginning of all keys in it, "" or ending in a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Place:
        """From "s3://bucket/prefix"; UsageError for anything else, without repeating what may hold a secret."""
        bucket, _, path = url.removeprefix("s3://").partition("/")
        if not bucket or any(mark in url for mark in "@?#") or ":" in bucket:
            raise UsageError(
                'this is no address of a store; expected "s3://bucket/prefix", without user, password, endpoint or options',
                next_step="put credentials in a profile (AWS_PROFILE) and the endpoint in AWS_ENDPOINT_URL",
            )
        path = "/".join(part for part in path.split("/") if part)
        return cls(bucket, f"{path}/" if path else "")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class Refused(Exception):
    """The server answered that a precondition does not hold."""


class Conflict(StoreError):
    """Two conditional requests met at the server; either may be sent again."""


class Away(StoreError):
    """The server cannot be reached, went silent or is overloaded, and botocore has tried often enough.

    Whether the last request took effect is not known.
    """


class Broken(Away):
    """A connection that ended in the middle of an answer; what was asked may be asked again."""


@dataclass(frozen=True)
class Listed:
    """One name of a listing; `size_bytes` is -1 for what is a folder. The age is by the server's clock alone."""

    name: str
    size_bytes: int
    age_s: float = 0.0
    version: str = ""


@dataclass(frozen=True)
class Page:
    """What one request of a listing has answered."""

    listed: list[Listed]
    is_last: bool


class S3Client:
    """Requests to one place, from any thread and, after a fork, from any process."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._made: tuple[int, Any] = (0, None)
        self.quotes_versions = True
        """Whether this server wants ETags in quotes, as the standard says; some gateways want them bare."""

    @property
    def raw(self) -> Any:
        """The client of this process, botocore's: connections must not be shared with the process that it was forked from."""
        process, client = self._made
        if process == os.getpid():
            return client
        with self._lock if process == 0 else threading.Lock():  # a lock may have been held when the process was forked
            if self._made[0] != os.getpid():
                self._made = (os.getpid(), connect())
            return self._made[1]

    @property
    def endpoint(self) -> str:
        """Where requests go, without anything secret."""
        return str(self.raw.meta.endpoint_url).rpartition("@")[2]

    def key(self, path: str) -> str:
        return f"{self.place.prefix}{path}"

    def call(self, operation: str, path: str = "", **arguments: Any) -> Answer:
        """One request, retried by botocore; Refused for a precondition, KeyError if the object is absent, else StoreError."""
        if path:
            arguments["Key"] = self.key(path)
        with self.explained(path):
            answer: Answer = getattr(self.raw, operation)(Bucket=self.place.bucket, **arguments)
        return answer

    def condition(self, version: str) -> str:
        """A version as a condition names it."""
        return f'"{version}"' if self.quotes_versions else version

    def get(self, path: str) -> Entry | None:
        """Content, version and age."""

        def read() -> Entry:
            answer = self.call("get_object", path)
            with self.explained(path, is_body=True):
                return Entry(answer["Body"].read(), version_of(answer), (_now(answer) - answer["LastModified"]).total_seconds())

        try:
            return retried(read)
        except KeyError:
            return None

    def head(self, path: str) -> Answer | None:
        """Headers of an object."""
        try:
            return self.call("head_object", path)
        except KeyError:
            return None

    def put(self, path: str, data: bytes, *, if_absent: bool = False, if_version: str = "", **arguments: Any) -> str:
        """Store an object and return its version; raises Refused if the condition does not hold.

        A request that was retried may be refused because its own first try had succeeded: each carries a mark by which its
        writer knows it again.
        """
        mark = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": self.condition(if_version)} if if_version else {}
        for number in range(_CONFLICT_TRIES):
            try:
                return version_of(self.call("put_object", path, Body=data, Metadata={_WRITER: mark}, **condition, **arguments))
            except (Refused, KeyError) as error:
                found = self.head(path) if condition else None
                if found is not None and found.get("Metadata", {}).get(_WRITER) == mark:
                    return version_of(found)
                raise Refused from error
            except Conflict:
                pause(number)
        raise StoreError(f"{self.place.url}: {path} is changed by others all the time; gave up after {_CONFLICT_TRIES} tries")

    def delete(self, path: str, **arguments: Any) -> None:
        self.call("delete_object", path, **arguments)

    def list(self, prefix: str, *, after: str = "", is_deep: bool = False) -> Iterator[Listed]:
        """Names below a prefix that ends in a slash, in order; folders too unless `is_deep`."""
        for page in self.pages(prefix, after=after, is_deep=is_deep):
            yield from page.listed

    def pages(self, prefix: str, *, after: str = "", is_deep: bool = False) -> Iterator[Page]:
        """The same, a request at a time."""
        arguments: Answer = {"Prefix": self.key(prefix)}
        if not is_deep:
            arguments["Delimiter"] = "/"
        if after:
            arguments["StartAfter"] = self.key(f"{prefix}{after}")
        length = len(arguments["Prefix"])
        while True:
            page = self.call("list_objects_v2", **arguments)
            now = _now(page)
            folders = [Listed(folder["Prefix"][length:].rstrip("/"), -1) for folder in page.get("CommonPrefixes", ())]
            objects = [
                Listed(found["Key"][length:], found["Size"], (now - found["LastModified"]).total_seconds(), version_of(found))
                for found in page.get("Contents", ())
                if len(found["Key"]) > length
            ]
            yield Page(folders + objects, is_last=not page.get("IsTruncated"))
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def uploads(self) -> Iterator[Upload]:
        """Multipart uploads to this place that were begun and not finished; none where this may not be or cannot be asked."""
        arguments: Answer = {"Prefix": self.place.prefix}
        while True:
            try:
                page = self.call("list_multipart_uploads", **arguments)
            except (StoreError, KeyError) as error:
                if isinstance(error, Away):
                    raise
                return
            now = _now(page)
            for found in page.get("Uploads", ()):
                path = found["Key"][len(self.place.prefix) :]
                yield Upload(path, found["UploadId"], (now - found["Initiated"]).total_seconds())
            if not page.get("IsTruncated"):
                return
            arguments |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    @contextmanager
    def explained(self, path: str = "", *, is_body: bool = False) -> Iterator[None]:
        """Turn what botocore raises into errors of ours; a message never holds a request, a header or a credential."""
        from botocore import exceptions

        place = f"{self.place.url}/{path}" if path else self.place.url
        try:
            yield
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            if code in _REFUSED:
                raise Refused from None
            if code in _ABSENT:
                raise KeyError(path) from None
            if code in _CONFLICT:
                raise Conflict(f"{place}: others change it at this very moment", next_step="run the command again") from None
            words = error.response.get("Error", {}).get("Message", "") or "no words"
            is_away = code in _OVERLOADED or (status.startswith("5") and status != _NOT_IMPLEMENTED)
            raise (Away if is_away else StoreError)(
                f"{place}: the server answered {code or status}: {words}",
                next_step="run the command again in a while: it goes on where it stopped" if is_away else _ADVICE.get(code, ""),
            ) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
            raise StoreError(f"{place}: {error}", next_step="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret") from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.ResponseStreamingError) as error:
            raise (Broken if is_body else Away)(
                f"{place}: the server cannot be reached, or went silent ({type(error).__name__})",
                next_step="orchestrator doctor; check AWS_ENDPOINT_URL and the network",
            ) from None
        except exceptions.IncompleteReadError:
            raise Broken(f"{place}: the answer was cut short") from None
        except exceptions.BotoCoreError as error:
            raise StoreError(f"{place}: {error}", next_step="orchestrator doctor") from error


_ADVICE: Mapping[str, str] = {
    "NoSuchBucket": "make the bucket first, or correct --store s3://BUCKET/PREFIX",
    "AccessDenied": "the credentials (AWS_PROFILE) need s3:GetObject, PutObject, DeleteObject and ListBucket there",
    "403": "check the credentials (AWS_PROFILE), and that they may read and list the bucket",
    "InvalidAccessKeyId": "check AWS_PROFILE and AWS_ENDPOINT_URL: this server does not know these credentials",
    "SignatureDoesNotMatch": "check AWS_PROFILE and AWS_ENDPOINT_URL: this server does not know these credentials",
}


def version_of(answer: Mapping[str, Any]) -> str:
    """The ETag without its quotes; a name for a state of the object, never a digest of its content."""
    return str(answer["ETag"]).strip('"')


def _now(answer: Mapping[str, Any]) -> datetime:
    """The time of the answer, by the server's clock."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def retried(action: Callable[[], T], *, tries: int = MAX_ATTEMPTS) -> T:
    """Call `action` again where a connection broke in the middle of an answer, which botocore does not retry."""
    for number in range(tries - 1):
        try:
            return action()
        except Broken:
            pause(number)
    return action()


def pause(number: int) -> None:
    """Wait before try `number` + 2: longer each time, and by chance, so that many do not come back at once."""
    time.sleep(random.uniform(0, min(5.0, 0.05 * 2**number)))  # noqa: S311 - jitter, no secret
