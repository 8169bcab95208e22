"""What a text of a workflow file refers to: a node, or a node of a sweep's best trial or of all trials of its front."""

from __future__ import annotations

from dataclasses import dataclass

BEST = "best"
FRONT = "front"
OUTPUT = "output"
"""`node.output` says the same as `node`: each node has one output."""


@dataclass(frozen=True)
class Reference:
    """`node`, or `node.which.part` where `node` is a sweep, `which` is best or front and `part` one of the sweep's nodes."""

    node: str
    which: str = ""
    part: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.which}.{self.part}" if self.which else self.node

    @property
    def is_expanded(self) -> bool:
        """Whether it stands for several artifacts."""
        return self.which == FRONT


def parse_reference(text: str) -> Reference:
    """The reference in a text that the check has found good.

    Example:
        >>> [str(parse_reference(text)) for text in ("a", "a.output", "s.best.x", "s.front.x.output")]
        ['a', 'a', 's.best.x', 's.front.x']
    """
    node, *rest = text.split(".")
    return Reference(node, *rest[:2]) if len(rest) > 1 else Reference(node)


def split_metric(text: str) -> tuple[str, str]:
    """The reference and the name of the metric in "node.metric" or "sweep.best.node.metric".

    Example:
        >>> split_metric("score.gmacs"), split_metric("search.best.score.gmacs"), split_metric("score")
        (('score', 'gmacs'), ('search.best.score', 'gmacs'), ('score', ''))
    """
    words = text.split(".")
    length = 3 if len(words) > 3 and words[1] in {BEST, FRONT} else 1
    return ".".join(words[:length]), ".".join(words[length:])
