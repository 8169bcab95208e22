"""Thinning of curves that have more points than a page can show. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def thinned(points: Sequence[Point], *, limit: int) -> list[Point]:
    """At most `limit` of the points, the first and the last among them, such that peaks stay.

    The points between are cut into limit - 2 buckets of equal number; of each the point stays that spans the largest triangle
    with the point kept before and the mean of the next bucket.

    Args:
        points: by rising x.
        limit: at least 3.

    Example:
        >>> thinned([(0, 0), (1, 0), (2, 9), (3, 0), (4, 0), (5, 0)], limit=4)
        [(0, 0), (2, 9), (3, 0), (5, 0)]

    Source: Steinarsson 2013, Downsampling Time Series for Visual Representation (largest triangle, three buckets).
    """
    if len(points) <= limit:
        return list(points)
    kept = [points[0]]
    size = (len(points) - 2) / (limit - 2)
    for bucket in range(limit - 2):
        begin, end = 1 + int(bucket * size), 1 + int((bucket + 1) * size)
        following = points[end : max(end + 1, min(len(points), 1 + int((bucket + 2) * size)))]
        mean_x = sum(x for x, _ in following) / len(following)
        mean_y = sum(y for _, y in following) / len(following)
        last_x, last_y = kept[-1]

        def area(point: Point, *, a: Point = (last_x, last_y), c: Point = (mean_x, mean_y)) -> float:
            return abs((a[0] - c[0]) * (point[1] - a[1]) - (a[0] - point[0]) * (c[1] - a[1]))

        kept.append(max(points[begin:end], key=area))
    return [*kept, points[-1]]
