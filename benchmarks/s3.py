"""The S3 store against what there is: boto3's transfer manager and obstore for large blobs, the local store for a cached plan.

    python benchmarks/s3.py [--size-mib 256] [--nodes 300] [--repeat 5] [moto] [rclone] [ceph]

Starts the servers itself (see tests/store/servers.py). Each figure is the median of `--repeat` turns, all ways in turn in one
process; the ratio is the lesser of the medians of boto3's and obstore's seconds over ours, turn by turn. Memory is how far
this process grows beyond what it had, measured in a process of its own for each transfer.
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
from servers import ACCESS_KEY, BUCKET, SECRET_KEY, SERVERS, Server, environment  # noqa: E402 - the tests' servers are in no package

from orchestrator import api  # noqa: E402
from orchestrator.store.base import open_store  # noqa: E402
from orchestrator.store.blobs import digest_file  # noqa: E402

SPEED_TARGET = 0.9
GONE_AFTER_S = 1.0
"""A Ceph gateway collects what was deleted behind the back of whom it serves next."""
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


def cpu_seconds() -> float:
    """That this process has used: on a busy machine a fairer measure than the clock."""
    return sum(os.times()[:2])


def seconds(action: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    action()
    return time.perf_counter() - began_s


class Transfer:
    """One file, sent and fetched by us, by boto3's transfer manager and by obstore; what was sent last is fetched."""

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
        self.digest = digest_file(self.file, size_bytes)
        self.store = open_store(f"s3://{BUCKET}/ours")

    def forget(self, key: str) -> None:
        """Remove an object, so that each is sent anew and a server in memory does not fill up."""
        self.client.delete_object(Bucket=BUCKET, Key=key)

    @property
    def ours_key(self) -> str:
        return f"ours/blobs/{self.digest[:2]}/{self.digest}"

    def ours_up(self) -> None:
        """With the digest taken, which is the blob's name."""
        assert digest_file(self.file, self.size_bytes) == self.digest
        self.ours_sent()

    def ours_sent(self) -> None:
        """Without: blake3's threads do not survive a fork."""
        from orchestrator.store.s3_transfer import upload

        upload(self.store.client, f"blobs/{self.digest[:2]}/{self.digest}", self.file)

    def ours_down(self) -> None:
        """With the digest verified, which the others do not."""
        self.store.cache.drop(self.digest)
        self.store.blob_path(self.digest)

    def boto3_up(self) -> None:
        self.client.upload_file(str(self.file), BUCKET, "boto3")

    def boto3_down(self) -> None:
        self.client.download_file(BUCKET, "boto3", str(self.folder / "boto3"))

    def obstore_up(self) -> None:
        obstore.put(self.obstore, "obstore", self.file)

    def obstore_down(self) -> None:
        with (self.folder / "obstore").open("wb") as file:
            for chunk in obstore.get(self.obstore, "obstore"):
                file.write(chunk)


def bench_transfer(server: Server, folder: Path, size_bytes: int, repeat: int) -> None:
    transfer = Transfer(server, folder, size_bytes)
    keys = {"ours": transfer.ours_key, "boto3": "boto3", "obstore": "obstore"}
    memory = {"up": [], "down": []}
    for way, who in (("up", "ours_sent"), ("up", "boto3_up"), ("down", "ours_down"), ("down", "boto3_down")):
        memory[way].append(peak_growth_bytes(getattr(transfer, who)) / 2**20)  # first of all: obstore's threads survive no fork
    for way in memory:
        times: dict[str, list[float]] = {name: [] for name in keys}
        used: dict[str, list[float]] = {name: [] for name in keys}
        for turn in range(repeat + 1):
            for name in (*list(keys)[turn % 3 :], *list(keys)[: turn % 3]):
                if way == "up":
                    transfer.forget(keys[name])
                    time.sleep(GONE_AFTER_S if server.name == "ceph" else 0)
                before_s = cpu_seconds()
                taken_s = seconds(getattr(transfer, f"{name}_{way}"))
                if turn:  # the first is there to warm up
                    times[name].append(taken_s)
                    used[name].append(cpu_seconds() - before_s)
        ours, *others = times.values()
        ratio = min(statistics.median(theirs / mine for theirs, mine in zip(other, ours, strict=True)) for other in others)
        verdict = "ok" if ratio >= SPEED_TARGET else f"MISSED, target {SPEED_TARGET}"
        print(
            f"{server.name:<7}{way:<5} {size_bytes / 2**20:.0f} MiB: "
            + ", ".join(f"{name} {statistics.median(found):.2f} s" for name, found in times.items())
            + f"; {ratio:.2f} of the better one's speed {verdict}; CPU here "
            + ", ".join(f"{statistics.median(found):.2f} s" for found in used.values())
            + f"; memory +{memory[way][0]:.0f} MiB, boto3 +{memory[way][1]:.0f} MiB",
            flush=True,
        )
    for key in keys.values():
        transfer.forget(key)


def bench_plan(server: Server, folder: Path, nodes: int, repeat: int) -> None:
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
    print(
        f"{server.name:<7}cached plan of {nodes} nodes: {s3_s:.2f} s, local store {local_s:.2f} s, ratio {s3_s / local_s:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)}; default: all")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    for name in asked.servers or SERVERS:
        server = SERVERS[name]()
        with tempfile.TemporaryDirectory(prefix="bench-s3-") as folder, environment(server.variables):
            os.environ["ORCHESTRATOR_CACHE"] = f"{folder}/cache"
            bench_transfer(server, Path(folder), asked.size_mib * 2**20, asked.repeat)
            bench_plan(server, Path(folder), asked.nodes, asked.repeat)


if __name__ == "__main__":
    main()
