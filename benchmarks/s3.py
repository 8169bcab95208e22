"""The S3 store against what there is: boto3's transfer manager and obstore for large blobs, the local store for a cached plan.

    python benchmarks/s3.py [--size-mib 256] [--nodes 300] [--server moto|rclone|ceph]

Starts the server itself (see tests/store/servers.py). Each figure is the median of `--repeat` turns, all ways in turn in one
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

import obstore  # noqa: E402 - pip install -e '.[test,bench]'
import obstore.store  # noqa: E402
from servers import ACCESS_KEY, BUCKET, SECRET_KEY, SERVERS, Server  # noqa: E402 - the tests' servers are in no package

from orchestrator import api  # noqa: E402
from orchestrator.store.base import open_store  # noqa: E402
from orchestrator.store.blobs import digest_file  # noqa: E402

SPEED_TARGET = 0.9
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
    grown = queue.get(timeout=120)
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
    """One file, sent and fetched by us, by boto3's transfer manager and by obstore, each time under a new name."""

    def __init__(self, server: Server, folder: Path, size_bytes: int) -> None:
        self.client = server.client(response_checksum_validation="when_required")
        self.obstore = obstore.store.S3Store(
            BUCKET,
            endpoint=server.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        self.folder = folder
        self.file = folder / "source"
        self.size_bytes = size_bytes
        with self.file.open("wb") as file:
            for _ in range(size_bytes // 2**20):
                file.write(os.urandom(2**20))
        self.key = uuid.uuid4().hex

    def ours_up(self) -> None:
        """With the digest taken, which is the blob's name."""
        self.digest = digest_file(self.file, self.size_bytes)
        self.ours_sent()

    def ours_sent(self) -> None:
        """Without: blake3's threads do not survive a fork."""
        from orchestrator.store.s3_transfer import upload

        self.store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        upload(self.store.client, f"blobs/{self.digest[:2]}/{self.digest}", self.file)

    def ours_down(self) -> None:
        """With the digest verified, which the others do not."""
        self.store.cache.drop(self.digest)
        self.store.blob_path(self.digest)

    def boto3_up(self) -> None:
        self.client.upload_file(str(self.file), BUCKET, f"boto3/{self.key}")

    def boto3_down(self) -> None:
        self.client.download_file(BUCKET, f"boto3/{self.key}", str(self.folder / "boto3"))

    def obstore_up(self) -> None:
        obstore.put(self.obstore, f"obstore/{self.key}", self.file)

    def obstore_down(self) -> None:
        with (self.folder / "obstore").open("wb") as file:
            for chunk in obstore.get(self.obstore, f"obstore/{self.key}"):
                file.write(chunk)


def bench_transfer(server: Server, folder: Path, size_bytes: int, repeat: int) -> None:
    transfer = Transfer(server, folder, size_bytes)
    memory = {}
    transfer.ours_up(), transfer.boto3_up()
    pairs = {"up": (transfer.ours_sent, transfer.boto3_up), "down": (transfer.ours_down, transfer.boto3_down)}
    for way, both in pairs.items():  # first of all: obstore's threads do not survive a fork either
        memory[way] = [peak_growth_bytes(action) / 2**20 for action in both]
    for way in pairs:
        ours, *others = (getattr(transfer, f"{name}_{way}") for name in ("ours", "boto3", "obstore"))
        for action in (ours, *others):
            action()
        turns = [[seconds(action) for action in (ours, *others)] for _ in range(repeat)]
        medians = [statistics.median(times) for times in zip(*turns, strict=True)]
        ratio = statistics.median(min(theirs) / mine for mine, *theirs in turns)
        print(
            f"{way:<5} {size_bytes / 2**20:.0f} MiB: {medians[0]:.2f} s, boto3 {medians[1]:.2f} s, obstore {medians[2]:.2f} s,"
            f" {ratio:.2f} of the better one's speed {'ok' if ratio >= SPEED_TARGET else f'MISSED, target {SPEED_TARGET}'};"
            f" memory +{memory[way][0]:.0f} MiB, boto3 +{memory[way][1]:.0f} MiB",
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
