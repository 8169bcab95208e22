"""Commands on a store with many artifacts: requests by kind, and seconds.

    python benchmarks/s3_large_store.py [--artifacts 10000] [--nodes 100] [--runs 100] [moto] [ceph] [rclone] [local]

The store gets so many artifacts of ten stages, each with a blob of its own, and the runs of a workflow of so many nodes. Each
command is called in this process: first as on a machine that has seen nothing of the store, then again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests/store")]

from servers import BUCKET, SERVERS, environment  # noqa: E402 - the tests' servers are in no package

from orchestrator import api  # noqa: E402
from orchestrator.cli import main as command_line  # noqa: E402
from orchestrator.store.artifacts import Artifacts, record_path  # noqa: E402
from orchestrator.store.base import open_store  # noqa: E402
from orchestrator.store.blobs import digest_bytes  # noqa: E402
from orchestrator.store.parallel import in_parallel  # noqa: E402
from orchestrator.store.record_file import FileEntry, encode_record  # noqa: E402
from orchestrator.store.s3 import S3Store  # noqa: E402
from orchestrator.store.s3_client import S3Client  # noqa: E402

WIDE = "version: 1\nname: wide\nnodes:\n  a: {{stage: probe.echo, foreach: {{value: [{values}]}}}}\n"
NUM_STAGES = 10
OLD = "2026-01-01T00:00:00.000Z"


def seed(url: str, folder: Path, *, artifacts: int, nodes: int, runs: int) -> Path:
    """Fill the store; returns the workflow whose nodes are all there."""
    file = folder / "wide.yaml"
    file.write_text(WIDE.format(values=", ".join(map(str, range(nodes)))))
    workspace = api.open_workspace(url)
    api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")
    store = workspace.store
    (sample,) = [record for _, record in zip(range(1), Artifacts(store).all_records(), strict=False)]

    def put(number: int) -> None:
        content = b"%d" % number
        digest, key = digest_bytes(content), f"{digest_bytes(b'key%d' % number)[:32]}"
        files = {"file": FileEntry(digest=digest, size_bytes=len(content))}
        record = replace(
            sample, key=key, stage=f"probe.many{number % NUM_STAGES}", files=files, finished=OLD, label=f"many/{number}"
        )
        objects = {f"blobs/{digest[:2]}/{digest}": content, record_path(record.stage, key): encode_record(record)}
        for path, data in objects.items():
            if isinstance(store, S3Store):
                store.client.put(path, data)  # no more requests than it takes
            else:
                (store.root / path).parent.mkdir(parents=True, exist_ok=True)
                (store.root / path).write_bytes(data)

    for _ in in_parallel(put, range(artifacts), width=store.width):
        pass
    for _ in range(runs - 1):
        api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")
    store.release_blobs()
    return file


def measure(name: str, url: str, arguments: list[str]) -> None:
    """One command twice; its requests by kind, and the processor time of this process alone: a server's is not ours to mend."""
    told = []
    for cache in ("first", "again"):
        counts: Counter[str] = Counter()
        call = S3Client.call

        def counted(self, operation, path="", *, counts=counts, call=call, **more):
            counts[operation] += 1
            return call(self, operation, path, **more)

        S3Client.call = counted
        began_s, before_s = time.perf_counter(), sum(os.times()[:2])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as words:
            code = command_line(["--store", url, *arguments])
        taken_s, used_s = time.perf_counter() - began_s, sum(os.times()[:2]) - before_s
        S3Client.call = call
        assert code == 0, words.getvalue()
        requests = ", ".join(f"{number} {operation.replace('_', ' ')}" for operation, number in counts.most_common())
        told.append(f"{cache} {taken_s:.2f} s, CPU here {used_s:.2f} s ({requests or 'no requests'})")
    print(f"{name:<7}{' '.join(arguments[:2])[:24]:<24}  " + "; ".join(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--apply", action="store_true", help="then remove all of it, and say how long that took")
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)} and local; default: moto")
    asked = parser.parse_args()
    for name in asked.servers or ("moto",):
        with tempfile.TemporaryDirectory(prefix="bench-large-") as text, contextlib.ExitStack() as stack:
            folder = Path(text)
            url = str(folder / "store")
            if name != "local":
                url = f"s3://{BUCKET}/large"
                stack.enter_context(environment(SERVERS[name]().variables))
            os.environ["ORCHESTRATOR_CACHE"] = f"{folder}/seeding"
            began_s = time.perf_counter()
            file = seed(url, folder, artifacts=asked.artifacts, nodes=asked.nodes, runs=asked.runs)
            print(
                f"{name:<7}{asked.artifacts} artifacts, {asked.runs} runs: made in {time.perf_counter() - began_s:.0f} s",
                flush=True,
            )
            commands = [
                ["plan", str(file)],
                ["ls"],
                ["artifacts", "ls"],
                ["gc", "--keep-days", "0", "--keep-runs", "5", "--grace", "0s"],
            ]
            for number, arguments in enumerate(commands):
                os.environ["ORCHESTRATOR_CACHE"] = f"{folder}/machine-{number}"
                open_store(url).caution()  # what a server honours is asked once a day
                measure(name, url, arguments)
            if asked.apply:
                measure_apply(name, url, [*commands[-1], "--apply"])


def measure_apply(name: str, url: str, arguments: list[str]) -> None:
    """`gc --apply`, once."""
    began_s = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as words, contextlib.redirect_stderr(words):
        code = command_line(["--store", url, *arguments])
    assert code == 0, words.getvalue()
    print(f"{name:<7}gc --apply                {time.perf_counter() - began_s:.1f} s", flush=True)


if __name__ == "__main__":
    main()
