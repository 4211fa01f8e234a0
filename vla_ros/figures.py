# SPDX-License-Identifier: Apache-2.0
"""Figures with their uncertainty: success rates with intervals, percentiles of times. numpy and stdlib only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

#: 97.5 % quantile of the standard normal distribution: two-sided 95 %.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion.

    It keeps its coverage for few trials and for rates near 0 and 1, where the usual ±z·sqrt(p(1−p)/n) collapses to a
    point (E. B. Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        successes: 0..trials.
        trials: number of trials; 0 gives (0, 1): nothing is known.
        z: quantile of the standard normal distribution.

    Returns:
        Lower and upper bound inside 0..1.

    Raises:
        ValueError: if the counts are impossible.
    """
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    denominator = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At 0 and at `trials` the bound is exact; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def success_summary(outcomes: Iterable[bool]) -> dict[str, object]:
    """``success_rate``, ``ci95`` (Wilson) and ``n`` of a series of outcomes; the rate of none is None."""
    counted = [bool(outcome) for outcome in outcomes]
    successes = sum(counted)
    low, high = wilson_interval(successes, len(counted))
    rate = round(successes / len(counted), 4) if counted else None
    return {"success_rate": rate, "ci95": [round(low, 4), round(high, 4)], "n": len(counted)}


def percentiles(values: Sequence[float]) -> dict[str, float | int]:
    """``p50``, ``p99``, ``p999``, ``max`` and ``n`` of a non-empty series, in its own unit.

    Percentiles are by the nearest rank above: each is a value that was measured, never interpolated below the tail.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.size == 0:
        raise ValueError("percentiles of an empty series")
    p50, p99, p999 = (float(np.percentile(series, q, method="higher")) for q in (50, 99, 99.9))
    return {"p50": p50, "p99": p99, "p999": p999, "max": float(series.max()), "n": int(series.size)}
