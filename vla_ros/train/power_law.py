# SPDX-License-Identifier: Apache-2.0
"""P = A * N^a * D^b * T^g by least squares in logarithms, with confidence intervals. numpy and the standard library only.

Axes: R runs, V variables (model, data, compute).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.core.errors import ConfigError

INTERVALS = ("student", "bootstrap")
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | list[float]]:
        """For JSON."""
        return {"value": self.value, "ci95": [self.low, self.high]}


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A fit. `scatter` is the standard deviation of ln P around it, so exp(scatter) is the typical factor by which a run is off."""

    coefficient: Estimate
    exponents: dict[str, Estimate]
    r_squared: float
    scatter: float
    runs: int
    interval: str

    def predict(self, sizes: Mapping[str, float]) -> float:
        """P at the given sizes."""
        log = math.log(self.coefficient.value) + sum(estimate.value * math.log(sizes[name]) for name, estimate in self.exponents.items())
        return math.exp(log)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "coefficient": self.coefficient.to_dict(),
            "exponents": {name: estimate.to_dict() for name, estimate in self.exponents.items()},
            "r_squared": self.r_squared, "scatter": self.scatter, "runs": self.runs, "interval": self.interval,
        }


def fit_power_law(sizes: Mapping[str, Sequence[float]], performance_R: Sequence[float], *, interval: str = "student", seed: int = 0) -> PowerLaw:
    """Fits ln P = ln A + sum of exponent * ln size.

    Args:
        sizes: R positive values of each variable, named.
        performance_R: R positive values.
        interval: `student`: exact if the scatter of ln P is Gaussian and even; `bootstrap`: residuals are drawn anew.
        seed: of the bootstrap.

    Raises:
        ConfigError: too few runs, values that are not positive, or variables that do not vary independently of one another.
    """
    names = tuple(sizes)
    design_RC, log_R = _logarithms(sizes, performance_R)
    runs, columns = design_RC.shape
    if interval not in INTERVALS:
        raise ConfigError(f"interval is {interval!r}: valid are {', '.join(INTERVALS)}")
    if runs <= columns:
        raise ConfigError(f"{columns} parameters need at least {columns + 1} runs, got {runs}: make the grid larger")
    # Centred, so that the check means collinearity and not that logarithms of sizes are large.
    centred_RV = design_RC[:, 1:] - design_RC[:, 1:].mean(0)
    if np.linalg.matrix_rank(centred_RV, tol=1e-6 * math.sqrt(runs)) < len(names):
        raise ConfigError(f"{', '.join(names)} do not vary independently in these runs: give each at least two values in the grid")
    solution_C = np.linalg.lstsq(design_RC, log_R, rcond=None)[0]
    residual_R = log_R - design_RC @ solution_C
    freedom = runs - columns
    scatter = math.sqrt(float(residual_R @ residual_R) / freedom)
    if interval == "student":
        low_C, high_C = _student_interval(design_RC, solution_C, scatter, freedom)
    else:
        low_C, high_C = _bootstrap_interval(design_RC, solution_C, residual_R, np.random.default_rng(seed))
    total = float(((log_R - log_R.mean()) ** 2).sum())
    return PowerLaw(
        coefficient=Estimate(value=_exp(solution_C[0]), low=_exp(low_C[0]), high=_exp(high_C[0])),
        exponents={name: Estimate(value=float(solution_C[i]), low=float(low_C[i]), high=float(high_C[i])) for i, name in enumerate(names, start=1)},
        r_squared=1.0 - float(residual_R @ residual_R) / total if total else 1.0,
        scatter=scatter, runs=runs, interval=interval,
    )


def _logarithms(sizes: Mapping[str, Sequence[float]], performance_R: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Design matrix with its column of ones, and ln P."""
    columns = {**sizes, "performance": performance_R}
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    for name, array in arrays.items():
        if array.shape != arrays["performance"].shape or array.ndim != 1:
            raise ConfigError(f"{name}: expected as many values as there are runs, {list(arrays['performance'].shape)}, got {list(array.shape)}")
        bad = ~(np.isfinite(array) & (array > 0))
        if bad.any():
            raise ConfigError(f"{name}: run {int(np.argmax(bad))} is {array[bad][0]}, a power law needs positive finite values")
    log_R = np.log(arrays.pop("performance"))
    return np.column_stack([np.ones_like(log_R), *(np.log(array) for array in arrays.values())]), log_R


def _student_interval(design_RC: np.ndarray, solution_C: np.ndarray, scatter: float, freedom: int) -> tuple[np.ndarray, np.ndarray]:
    error_C = scatter * np.sqrt(np.diag(np.linalg.pinv(design_RC.T @ design_RC, hermitian=True, rcond=1e-15)))
    half_C = student_quantile(0.975, freedom) * error_C
    return solution_C - half_C, solution_C + half_C


def _bootstrap_interval(design_RC: np.ndarray, solution_C: np.ndarray, residual_R: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of fits to the fitted values with redrawn residuals. These are widened first: a fit's residuals are too small by sqrt(1 - C/R)."""
    runs, columns = design_RC.shape
    widened_R = residual_R / math.sqrt(1.0 - columns / runs)
    drawn_RS = rng.choice(widened_R - widened_R.mean(), size=(runs, RESAMPLES))
    fitted_CS = solution_C[:, None] + np.linalg.lstsq(design_RC, drawn_RS, rcond=None)[0]
    return np.percentile(fitted_CS, 2.5, axis=1), np.percentile(fitted_CS, 97.5, axis=1)


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution for a probability above one half, by bisection of its integral."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def integral(limit: float) -> float:
        # x = sqrt(freedom) tan(u) turns the density into a power of the cosine, smooth also for one degree of freedom
        u = np.linspace(0.0, math.atan(limit / math.sqrt(freedom)), 2001)
        values = np.cos(u) ** (freedom - 1)
        return scale * math.sqrt(freedom) * float(((values[:-1] + values[1:]) * np.diff(u)).sum()) / 2

    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 + integral(middle) < probability else (low, middle)
    return (low + high) / 2


def _exp(value: float) -> float:
    return math.exp(min(float(value), 700.0))  # a hopelessly wide interval of ln A must not overflow
