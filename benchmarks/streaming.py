"""A large Parquet set streamed from a real S3 server through two workers: memory, speed, every image once, exact resume.

    python benchmarks/streaming.py [--gigabytes 2] [--server rclone] [--image-size 64] [--json FILE]

Makes the set (PNGs of 100 kB, each with bytes of its own and its number as label), puts it on the server, and lets
two processes read one shuffled epoch as the ranks of a data-parallel run do, decoding every image. Then each goes on from the
middle of the epoch in a new process, and its batches must have the same bytes. Target: a peak below 1 GB for each process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "store")]

PREFIX = "streamed"
NUM_PICTURES = 50
ROWS_PER_GROUP, GROUPS_PER_SHARD = 64, 10
BATCH_SIZE, WORKERS, WINDOW = 64, 2, 1024
MAX_PEAK_BYTES = 10**9
TEXT = "utf-8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--server", default="rclone", help="of moto, rclone, ceph")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        print(json.dumps(read(**json.loads(asked.worker))))
        return 0
    from servers import BUCKET, SERVERS, environment

    server = SERVERS[asked.server]()
    with environment(server.variables):
        begun = time.perf_counter()
        num_images, num_bytes = make(server.client(), BUCKET, round(asked.gigabytes * 1e9))
        print(
            f"{num_images} images, {num_bytes / 1e9:.2f} GB on {asked.server} after {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        place = f"s3://{BUCKET}/{PREFIX}"
        share = num_images // WORKERS
        whole = together([{"place": place, "rank": rank, "first": 0, "size": asked.image_size} for rank in range(WORKERS)])
        middle = share // BATCH_SIZE // 2
        rest = together([{"place": place, "rank": rank, "first": middle, "size": asked.image_size} for rank in range(WORKERS)])
    labels = sorted(label for worker in whole for label in worker["labels"])
    figures = {
        "server": asked.server,
        "gigabytes": num_bytes / 1e9,
        "images": num_images,
        "each_image_once": labels == list(range(num_images)),
        "resumed_exactly": all(late["digests"] == early["digests"][middle:] for late, early in zip(rest, whole, strict=True)),
        "peak_mb": [round(worker["peak_bytes"] / 1e6) for worker in (*whole, *rest)],
        "seconds": max(worker["seconds"] for worker in whole),
        "images_per_s": num_images / max(worker["seconds"] for worker in whole),
        "cpu_s": sum(worker["cpu_s"] for worker in whole),
        "first_batch_s": [round(worker["first_batch_s"], 2) for worker in (*whole, *rest)],
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    for name, value in figures.items():
        print(f"{name:16} {value}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding=TEXT)
    is_small = all(peak * 1e6 < MAX_PEAK_BYTES for peak in figures["peak_mb"])
    return int(not (figures["each_image_once"] and figures["resumed_exactly"] and is_small))


def make(client: Any, bucket: str, num_bytes: int) -> tuple[int, int]:
    """Write shards and manifest to the bucket, one shard in memory at a time; returns images and bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    from stages.data.pack import SCHEMA
    from stages.data.shards import MANIFEST_FILE, Manifest, RowGroup, Shard, group_digest

    pictures = list(_pictures())
    per_shard = ROWS_PER_GROUP * GROUPS_PER_SHARD
    num_shards = max(1, round(num_bytes / (per_shard * sum(map(len, pictures)) / len(pictures))))
    written = 0

    def write_shard(name: str, first: int, num_groups: int) -> Shard:
        nonlocal written
        buffer, groups = io.BytesIO(), []
        with parquet.ParquetWriter(buffer, SCHEMA, compression="none", use_dictionary=False) as writer:
            for begin in range(first, first + num_groups * ROWS_PER_GROUP, ROWS_PER_GROUP):
                rows = [
                    (pictures[number % NUM_PICTURES] + number.to_bytes(8, "little"), number, f"{number}.png")
                    for number in range(begin, begin + ROWS_PER_GROUP)
                ]  # what follows the end of a PNG is read by nobody
                writer.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA))
                groups.append(RowGroup(rows=len(rows), digest=group_digest(rows)))
        client.put_object(Bucket=bucket, Key=f"{PREFIX}/{name}", Body=buffer.getvalue())
        written += buffer.getbuffer().nbytes
        return Shard(file=name, groups=tuple(groups))

    num_images = num_shards * per_shard
    train = tuple(
        write_shard(f"train-{number:05d}.parquet", number * per_shard, GROUPS_PER_SHARD) for number in range(num_shards)
    )
    splits = {"train": train, "test": (write_shard("test-00000.parquet", 0, 1),)}
    manifest = Manifest(classes=tuple(str(number) for number in range(num_images)), splits=splits)
    client.put_object(Bucket=bucket, Key=f"{PREFIX}/{MANIFEST_FILE}", Body=manifest.model_dump_json().encode(TEXT))
    return num_images, written


def _pictures() -> Iterator[bytes]:
    """PNGs of noise, 100 kB each; not compressed, so that reading and not decoding is what takes time."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for _ in range(NUM_PICTURES):
        side = 183
        image = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=0)
        yield file.getvalue()


def together(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the workers at the same time, each a process of its own."""
    running = [
        subprocess.Popen([sys.executable, __file__, "--worker", json.dumps(order)], stdout=subprocess.PIPE, text=True)
        for order in orders
    ]
    told = [process.communicate()[0] for process in running]
    failed = [process.returncode for process in running if process.returncode]
    if failed:
        raise SystemExit(f"a worker ended with {failed[0]}")
    return [json.loads(text.splitlines()[-1]) for text in told]


def read(place: str, rank: int, first: int, size: int) -> dict[str, Any]:
    """One worker's share of a shuffled epoch from batch `first` on."""
    import torch
    from blake3 import blake3

    from stages.data.base import load_dataset
    from stages.data.image_settings import ParquetData

    torch.set_num_threads(1)
    begun, cpu_s = time.perf_counter(), time.process_time()
    train = load_dataset(ParquetData(path=place, image_size=size, shuffle_window=WINDOW)).train
    labels: list[int] = []
    digests: list[str] = []
    first_batch_s = 0.0
    for batch in train.batches(batch_size=BATCH_SIZE, shuffle_seed=7, first_batch=first, rank=rank, world_size=WORKERS):
        first_batch_s = first_batch_s or time.perf_counter() - begun
        labels += batch.labels.tolist()
        digests.append(blake3(batch.images.numpy().tobytes()).hexdigest(length=8))
    return {
        "labels": labels,
        "digests": digests,
        "seconds": time.perf_counter() - begun,
        "cpu_s": time.process_time() - cpu_s,
        "first_batch_s": first_batch_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    raise SystemExit(main())
