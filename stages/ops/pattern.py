"""The N:M pattern as a value: at most N non-zeros in every block of M. Torch-free, so that settings may use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import comb
from typing import Annotated

from pydantic import AfterValidator

_WRITTEN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True, order=True)
class NMPattern:
    """At most `n` non-zero weights in every block of `m` consecutive weights along the reduction axis; 0 < n <= m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise ValueError(f"N:M pattern {self.n}:{self.m} needs 0 < N <= M; usual patterns: 2:4, 1:4, 2:8, 4:8, 1:16")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def num_combinations(self) -> int:
        """C = binom(M, N), the ways to choose the non-zeros of one block."""
        return comb(self.m, self.n)

    @property
    def density(self) -> float:
        """Fraction of weights that may be non-zero."""
        return self.n / self.m


def parse_pattern(text: str) -> NMPattern:
    """Read "N:M".

    Raises:
        ValueError: if the text is no such pattern, or N > M, or N is 0.

    Example:
        >>> parse_pattern("2:4")
        NMPattern(n=2, m=4)
        >>> parse_pattern("2:4").num_combinations
        6
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f'{text!r} is not an N:M pattern; write "N:M", for example "2:4" (2 of every 4 weights stay)')
    return NMPattern(int(found[1]), int(found[2]))


def _normal_form(text: str) -> str:
    return str(parse_pattern(text))


PatternText = Annotated[str, AfterValidator(_normal_form)]
"""A settings field that holds a pattern: checked, and written one way ("2:4"), so that spelling cannot change a key."""
