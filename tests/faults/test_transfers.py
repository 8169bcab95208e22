"""Large blobs over failing connections: they arrive whole, in one stream or in ranges."""

from __future__ import annotations

import os

import pytest
from s3_proxy import Proxy, SeededPlan
from servers import other_machine, put_content

from orchestrator.store import s3_transfer
from orchestrator.store.base import open_store
from orchestrator.store.s3_client import Away

ON_ALL = [
    pytest.param("moto", marks=pytest.mark.xdist_group("s3-moto")),
    pytest.param("ceph", marks=[pytest.mark.chaos, pytest.mark.xdist_group("s3-ceph")]),
]


@pytest.mark.parametrize("proxy", ON_ALL, indirect=True)
@pytest.mark.parametrize("fast_bytes_per_s", [0.0, float("inf")], ids=["one stream", "ranges"])
def test_a_large_blob_travels_whole_over_a_failing_server(
    proxy: Proxy, place: str, tmp_path, monkeypatch, tally, fast_bytes_per_s: float
) -> None:
    """Cut, slow, throttled, broken and repeated: gigabytes take long enough to meet all of it."""
    monkeypatch.setattr(s3_transfer, "FAST_BYTES_PER_S", fast_bytes_per_s)
    monkeypatch.setattr(s3_transfer, "JUDGED_BYTES", 2**20)
    store = open_store(place)
    assert store.caution() == ""
    content = os.urandom(3 * s3_transfer.PART_BYTES + 5)
    tally.seed = "5"
    for number in range(2):
        proxy.rule = SeededPlan(5 + number, 0.3)
        try:
            digest = put_content(store, content)
        except Away:  # as often as botocore tries
            tally.add("S3 proxy: an upload given up", 0)
            proxy.rule = None
            digest = put_content(store, content)
        proxy.rule = SeededPlan(5 + number, 0.3)
        found = other_machine(place, tmp_path, monkeypatch)
        assert found.blob_path(digest).read_bytes() == content
        proxy.rule = None
        store.remove_blob(digest)
    for kind, number in proxy.injected.items():
        tally.add(f"S3 proxy: {kind}", number)
