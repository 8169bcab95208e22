"""The check of a store on S3: can it be reached and written to, and does its server honour what a shared store rests on."""

from __future__ import annotations

import os
import time

from orchestrator.cli.doctor_checks import FAIL, OK, WARN, Check
from orchestrator.errors import StoreError
from orchestrator.report.text import format_bytes
from orchestrator.store.base import Store
from orchestrator.store.s3 import ONE_MACHINE_VARIABLE, S3Store
from orchestrator.store.s3_probe import probe


def s3_check(store: Store) -> Check:
    """Asks the server anew, whatever is remembered of it, and times a read."""
    assert isinstance(store, S3Store)
    try:
        found = probe(store.client)
        path = f"doctor/{os.getpid()}-{time.time_ns()}"
        began_s = time.perf_counter()
        store.client.put(path, b"1")
        written_s = time.perf_counter()
        store.client.get(path)
        read_s = time.perf_counter()
        store.client.delete(path)
    except StoreError as error:
        return Check("store", FAIL, error.message, error.next_step)
    times = f"write {(written_s - began_s) * 1e3:.1f} ms, read {(read_s - written_s) * 1e3:.1f} ms"
    place = f"{store.url} at {store.client.endpoint}"
    if found.is_safe:
        cache = f"cache {store.cache_folder}, at most {format_bytes(store.cache.max_bytes)}"
        return Check("store", OK, f"{place}: honours conditional writes; {times}; {cache}")
    what = f"{place}: does not honour {found.missing()}: two machines could make one artifact at once"
    if store.is_for_one_machine:
        return Check("store", WARN, what, f"let no other machine write there ({ONE_MACHINE_VARIABLE}=1 promises it)")
    return Check(
        "store", FAIL, what, f"use another server; or, if no other machine ever writes there: export {ONE_MACHINE_VARIABLE}=1"
    )
