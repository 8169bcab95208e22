"""The stage `probe.bytes`: a file of any size, quickly, without holding more than one piece of it in memory."""

from __future__ import annotations

from pathlib import Path

import blake3
import numpy as np

from stages.contract import StageContext, StageResult
from stages.ops.seeds import derive_seed

PIECE_BYTES = 16 * 2**20
BLOB_FILE = "blob.bin"


def write_blob(context: StageContext) -> StageResult:
    """Write `blob.bin`: pseudo-random bytes that follow from the seed and the content of the input, if there is one.

    Source: none: carries no method.
    """
    parent = context.optional_input("input")
    origin = "" if parent is None else ",".join(_digest(path) for _, path in sorted(parent.files.items()))
    # The raw output of this generator is promised not to change between releases of NumPy.
    generator = np.random.PCG64(derive_seed(context.seed, "bytes", origin))
    size = context.settings.size
    hasher = blake3.blake3()
    with (context.output / BLOB_FILE).open("wb") as file:
        for begin in range(0, size, PIECE_BYTES):
            context.check_cancelled()
            length = min(PIECE_BYTES, size - begin)
            piece = memoryview(generator.random_raw((length + 7) // 8).astype("<u8", copy=False)).cast("B")[:length]
            file.write(piece)
            hasher.update(piece)
            context.report(step=begin + length, total=size, metrics={})
    return StageResult(metrics={"size_bytes": size, "digest": hasher.hexdigest()})


def _digest(path: Path) -> str:
    return blake3.blake3().update_mmap(path).hexdigest()
