"""Prices in words and as data: hours with a range, what they rest on, what is avoided, and whether a budget holds."""

from __future__ import annotations

from typing import Any

from orchestrator.report.pricing import PlanPrice
from orchestrator.report.text import plural
from orchestrator.workflow.budget import NO_PRICES, Budget, Hours, Prices, exceeded

MAX_NAMED = 3


def hours_text(low: Hours, high: Hours | None = None) -> str:
    """Hours, or a range of them: 1.8-2.4 GPU-h and 3 CPU-h. Of what needs a GPU its cores are not told.

    Example:
        >>> hours_text(Hours(0, 0.5), Hours(0, 0.75)), hours_text(Hours(2, 8))
        ('30-45 CPU-min', '2 GPU-h')
    """
    high = low if high is None else high
    if high.gpu > 0:
        return _amount(low.gpu, high.gpu, "GPU")
    return _amount(low.cpu, high.cpu, "CPU")


def price_lines(price: PlanPrice, *, budget: Budget | None = None, prices: Prices = NO_PRICES) -> str:
    """The line below the totals of a plan; empty where there is nothing to say."""
    parts = []
    if price.num_to_make:
        parts.append(_spend_text(price, prices))
    avoided = price.by_hits + price.by_sharing
    if avoided.cpu > 0 or avoided.gpu > 0:
        ways = [(price.by_hits, "by hits"), (price.by_sharing, "by sharing")]
        how = [f"{hours_text(hours)} {way}" for hours, way in ways if hours.cpu > 0 or hours.gpu > 0]
        text = (
            f"{hours_text(avoided)} avoided ({', '.join(how)})" if len(how) > 1 else f"{how[0].replace(' by', ' avoided by')}"
        )
        parts.append(text)
    line = ", ".join(parts)
    if budget is not None and price.num_to_make:
        line += f"; budget {budget}: {budget_verdict(price, budget, prices)}"
    return line


def budget_verdict(price: PlanPrice, budget: Budget, prices: Prices) -> str:
    """Whether a plan keeps to a budget, as far as that can be told."""
    if not price.num_priced:
        return "not known yet"
    if exceeded(budget, price.low, prices):
        return f"too small ({exceeded(budget, price.low, prices)} at least)"
    if exceeded(budget, price.high, prices):
        return "may not be enough"
    return "ok" if price.num_priced >= price.num_to_make else "ok for what is known"


def price_document(price: PlanPrice, *, budget: Budget | None = None, prices: Prices = NO_PRICES) -> dict[str, Any]:
    """All of it as data; hours are null where nothing was recorded."""
    is_known = price.num_priced > 0
    return {
        "spend": {"low": hours_document(price.low, prices), "high": hours_document(price.high, prices)} if is_known else None,
        "avoided": {"by_hits": hours_document(price.by_hits, prices), "by_sharing": hours_document(price.by_sharing, prices)},
        "nodes_to_make": price.num_to_make,
        "nodes_priced": price.num_priced,
        "records": price.num_records,
        "no_record_yet": list(price.unpriced),
        "budget": {"limits": budget.limits, "verdict": budget_verdict(price, budget, prices)} if budget is not None else None,
    }


def hours_document(hours: Hours, prices: Prices = NO_PRICES) -> dict[str, float]:
    """Hours as data, with money where there are prices."""
    document = {"gpu_hours": round(hours.gpu, 6), "cpu_hours": round(hours.cpu, 6)}
    return {**document, "usd": round(prices.of(hours), 4)} if prices.are_known else document


def _spend_text(price: PlanPrice, prices: Prices) -> str:
    if not price.num_priced:
        return "no record yet of what is to run"
    text = hours_text(price.low, price.high)
    if price.high.gpu > 0 and price.high.cpu > price.high.gpu:
        text += f" ({_amount(price.low.cpu, price.high.cpu, 'CPU')})"
    if prices.are_known:
        text += f", {prices.of(price.low):.2f}-{prices.of(price.high):.2f} USD"
    text += f" to spend, from {plural(price.num_records, 'record')}"
    if price.unpriced:
        names = ", ".join(price.unpriced[:MAX_NAMED]) + (", ..." if len(price.unpriced) > MAX_NAMED else "")
        text += f" (no record yet of {names})"
    return text


def _amount(low_h: float, high_h: float, what: str) -> str:
    for unit, factor in (("h", 1.0), ("min", 60.0), ("s", 3600.0)):
        if high_h * factor >= 1:
            return f"{_range(low_h * factor, high_h * factor)} {what}-{unit}"
    return f"<1 {what}-s"


def _range(low: float, high: float) -> str:
    first, last = _figure(low), _figure(high)
    return last if first == last else f"{first}-{last}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")
