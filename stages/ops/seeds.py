"""One seed for each purpose, derived from the node's seed. Knows no tensor library."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *path: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, independent of those of every other path.

    Streams drawn from neighbouring seeds of one generator may be alike; hashing the path makes them unrelated.

    Args:
        seed: the node's seed.
        path: what the numbers are for, such as ("order", epoch).

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
        False
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
