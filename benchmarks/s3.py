"""The S3 store against what there is: boto3's transfer manager for large blobs, the local store for a cached plan.

    python benchmarks/s3.py [--size-mib 256] [--nodes 300] [--server moto|rclone|ceph]

Starts the server itself (see tests/store/servers.py). Each figure is the median of `--repeat` turns, both ways in turn in one
process; memory is how far this process grows beyond what it had, measured in a process of its own for each transfer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests/store")]

from servers import BUCKET, SERVERS, Server  # noqa: E402 - the tests' servers are in no package

from orchestrator import api  # noqa: E402
from orchestrator.store.base import open_store  # noqa: E402
from orchestrator.store.blobs import digest_file  # noqa: E402

WIDE = "version: 1\nname: wide\nnodes:\n  a: {{stage: probe.echo, foreach: {{value: [{values}]}}}}\n"


def peak_growth_bytes(action: Callable[[], object]) -> int:
    """How far resident memory rises above where it was, in a forked process."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def run() -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
        before = _resident("VmRSS")
        action()
        queue.put(_resident("VmHWM") - before)

    process = context.Process(target=run)
    process.start()
    grown = queue.get(timeout=600)
    process.join()
    return grown


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def seconds(action: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    action()
    return time.perf_counter() - began_s


class Transfer:
    """One file, sent and fetched by us and by boto3's transfer manager, each time under a new name."""

    def __init__(self, server: Server, folder: Path, size_bytes: int) -> None:
        self.client = server.client(response_checksum_validation="when_required")
        self.folder = folder
        self.file = folder / "source"
        with self.file.open("wb") as file:
            for _ in range(size_bytes // 2**20):
                file.write(os.urandom(2**20))
        self.digest = digest_file(self.file, size_bytes)
        self.key = f"boto3/{uuid.uuid4().hex}"

    def boto3_up(self) -> None:
        self.client.upload_file(str(self.file), BUCKET, self.key)

    def boto3_down(self) -> None:
        self.client.download_file(BUCKET, self.key, str(self.folder / "boto3"))

    def ours_up(self) -> None:
        from orchestrator.store.s3_transfer import upload

        self.store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        upload(self.store.client, f"blobs/{self.digest[:2]}/{self.digest}", self.file)

    def ours_down(self) -> None:
        """With the digest verified, which boto3 does not."""
        self.store.cache.drop(self.digest)
        self.store.blob_path(self.digest)


def bench_transfer(server: Server, folder: Path, size_bytes: int, repeat: int) -> None:
    transfer = Transfer(server, folder, size_bytes)
    for way in ("up", "down"):
        ours, theirs = getattr(transfer, f"ours_{way}"), getattr(transfer, f"boto3_{way}")
        ours(), theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeat)]
        ours_s, theirs_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(mine / other for mine, other in pairs)
        memory = [peak_growth_bytes(action) / 2**20 for action in (ours, theirs)]
        print(
            f"{way:<5} {size_bytes / 2**20:.0f} MiB: {ours_s:.2f} s, boto3 {theirs_s:.2f} s, ratio {ratio:.2f};"
            f" memory +{memory[0]:.0f} MiB, boto3 +{memory[1]:.0f} MiB",
            flush=True,
        )


def bench_plan(folder: Path, nodes: int, repeat: int) -> None:
    file = folder / "wide.yaml"
    file.write_text(WIDE.format(values=", ".join(map(str, range(nodes)))))
    medians = {}
    for url in (str(folder / "local"), f"s3://{BUCKET}/{uuid.uuid4().hex}"):
        workspace = api.open_workspace(url)
        api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")

        def plan(url: str = url) -> None:
            assert not api.plan(file, workspace=api.open_workspace(url)).has_work

        plan()
        medians[url.partition(":")[0]] = statistics.median(seconds(plan) for _ in range(repeat))
    local_s, s3_s = medians.values()
    print(f"cached plan of {nodes} nodes: {s3_s:.2f} s, local store {local_s:.2f} s, ratio {s3_s / local_s:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--server", choices=SERVERS, default="moto")
    asked = parser.parse_args()
    server = SERVERS[asked.server]()
    os.environ.update(server.variables)
    with tempfile.TemporaryDirectory(prefix="bench-s3-") as name:
        os.environ["ORCHESTRATOR_CACHE"] = f"{name}/cache"
        print(f"server {server.name}, {os.cpu_count()} CPUs")
        bench_transfer(server, Path(name), asked.size_mib * 2**20, asked.repeat)
        bench_plan(Path(name), asked.nodes, asked.repeat)


if __name__ == "__main__":
    main()
