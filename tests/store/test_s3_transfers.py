"""Large blobs on their way: of any size, over connections that break, and objects that change meanwhile."""

from __future__ import annotations

import io
import os
from datetime import timedelta

import pytest
from servers import SHARED, Server, other_machine, put_content

from orchestrator.errors import StoreError
from orchestrator.store import s3_client, s3_transfer
from orchestrator.store.base import open_store
from orchestrator.store.leftovers import DAY_S, find_leftovers, remove_leftovers
from orchestrator.store.s3_client import Broken, S3Client
from orchestrator.store.s3_connect import MAX_ATTEMPTS


@pytest.fixture(params=["one stream", "ranges"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a large blob comes: as from a server that is fast, or from one that is slow."""
    monkeypatch.setattr(s3_transfer, "JUDGED_BYTES", 2**20)
    monkeypatch.setattr(s3_transfer, "FAST_BYTES_PER_S", 0.0 if request.param == "one stream" else float("inf"))
    return request.param


@pytest.mark.parametrize(
    "size_bytes", [0, 1, s3_transfer.PART_BYTES, s3_transfer.PART_BYTES + 1, 3 * s3_transfer.PART_BYTES + 5]
)
def test_a_blob_of_any_size_travels_whole(
    server: Server, place: str, tmp_path, monkeypatch, requests: list[str], way: str, size_bytes: int
) -> None:
    """Borders of parts are where bytes get lost."""
    content = (os.urandom(997) * (size_bytes // 997 + 1))[:size_bytes]
    digest = put_content(open_store(place), content)
    found = other_machine(place, tmp_path, monkeypatch)
    assert found.has_blob(digest, size_bytes)
    del requests[:]
    assert found.blob_path(digest).read_bytes() == content
    rest = size_bytes - 2**20 if way == "ranges" else 0
    assert requests.count("get_object") == 1 + max(0, -(-rest // s3_transfer.PART_BYTES))


def test_a_read_that_breaks_is_picked_up_where_it_broke(moto: Server, place: str, tmp_path, monkeypatch, way: str) -> None:
    """Long transfers lose a connection now and then, and more often than one request is worth trying again."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", 2**20)
    content = os.urandom(8 * s3_transfer.PART_BYTES)
    digest = put_content(open_store(place), content)
    found = other_machine(place, tmp_path, monkeypatch)
    length = s3_transfer.PART_BYTES if way == "one stream" else s3_transfer.PART_BYTES // 2
    asked, call = [], S3Client.call

    class Breaking:
        def __init__(self, body) -> None:
            self.body = body

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.body.close()

        def read(self, size):
            if self.body.tell() >= length:
                raise Broken("the cable")
            return self.body.read(size)

    def breaking(self, operation, path="", **arguments):
        answer = call(self, operation, path, **arguments)
        if operation == "get_object":
            asked.append(arguments.get("Range"))
            answer["Body"] = Breaking(answer["Body"])
        return answer

    monkeypatch.setattr(S3Client, "call", breaking)
    monkeypatch.setattr("orchestrator.store.s3_client.time.sleep", lambda _: None)
    assert found.blob_path(digest).read_bytes() == content
    if way == "one stream":
        assert asked == [None, *(f"bytes={start}-" for start in range(length, len(content), length))]
    else:
        assert f"bytes={2**20 + length}-{2**20 + s3_transfer.PART_BYTES - 1}" in asked


def test_a_read_that_breaks_again_and_again_ends_in_words(moto: Server, place: str, tmp_path, monkeypatch) -> None:
    """A server that cuts every answer short would be asked for ever."""
    digest = put_content(open_store(place), b"content")
    found = other_machine(place, tmp_path, monkeypatch)
    asked = []
    monkeypatch.setattr("orchestrator.store.s3_client.time.sleep", lambda _: None)

    class Empty(io.BytesIO):
        def read(self, _size):
            asked.append(1)
            return b""

    call = S3Client.call
    monkeypatch.setattr(S3Client, "call", lambda *args, **more: {**call(*args, **more), "Body": Empty()})
    with pytest.raises(Broken, match="cut short"):
        found.blob_path(digest)
    assert len(asked) == MAX_ATTEMPTS
    assert not found.cache.path(digest).exists()


def test_a_blob_that_is_replaced_while_it_is_read_is_refused(moto: Server, place: str, tmp_path, monkeypatch) -> None:
    """Half of one and half of another; both of the right size."""
    monkeypatch.setattr(s3_transfer, "JUDGED_BYTES", 2**20)
    monkeypatch.setattr(s3_transfer, "FAST_BYTES_PER_S", float("inf"))
    content = os.urandom(2 * s3_transfer.PART_BYTES)
    digest = put_content(open_store(place), content)
    found = other_machine(place, tmp_path, monkeypatch)
    call = S3Client.call

    def replacing(self, operation, path="", **arguments):
        if "Range" in arguments:
            call(self, "put_object", path, Body=bytes(len(content)))
        return call(self, operation, path, **arguments)

    monkeypatch.setattr(S3Client, "call", replacing)
    with pytest.raises(StoreError, match="was replaced"):
        found.blob_path(digest)


def test_an_upload_that_fails_leaves_no_parts_behind(moto: Server, place: str, monkeypatch) -> None:
    """Parts of unfinished uploads are paid for, and listed nowhere."""
    store = open_store(place)
    call = S3Client.call

    def failing(self, operation, path="", **arguments):
        if operation == "upload_part" and arguments["PartNumber"] == 2:
            raise Broken("no")
        return call(self, operation, path, **arguments)

    monkeypatch.setattr(S3Client, "call", failing)
    with pytest.raises(StoreError):
        put_content(store, b"x" * (s3_transfer.PART_BYTES * 2))
    listed = store.client.raw.list_multipart_uploads(Bucket="bucket", Prefix=store.client.place.prefix)
    assert not listed.get("Uploads")


@pytest.mark.parametrize("server", SHARED, indirect=True)
def test_an_upload_that_was_left_open_goes_a_day_after_it_was_begun(server: Server, place: str, monkeypatch) -> None:
    """Parts that are on their way at this moment must stay; those of yesterday cost money, and no listing shows them."""
    store = open_store(place)
    path = f"blobs/00/{'0' * 64}"
    begun = store.client.call("create_multipart_upload", path)["UploadId"]
    store.client.call("upload_part", path, UploadId=begun, PartNumber=1, Body=b"part")
    now, later_s = s3_client._now, 0.0
    if server.name == "moto":  # which says that every upload was begun on this day
        (left,) = store.uploads()
        later_s = -left.age_s
    monkeypatch.setattr(s3_client, "_now", lambda answer: now(answer) + timedelta(seconds=later_s))

    def look():
        return find_leftovers(store, finished=[], needed=[], checkpoints_older_than_s=1e9)

    (left,) = store.uploads()
    assert -60 < left.age_s < 600
    assert (left.path, left.id) == (path, begun)
    assert look().is_empty
    later_s += DAY_S - 3600
    assert look().is_empty
    later_s += 7200
    found = look()
    assert [upload.id for upload in found.uploads] == [begun]
    remove_leftovers(store, found)
    assert list(store.uploads()) == []
