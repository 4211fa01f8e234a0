# SPDX-License-Identifier: Apache-2.0
"""Bounds of the action bins from the data: the quantiles between which OpenVLA (arXiv 2406.09246) puts its 256 bins.

The result is an `ActionSpec` like any other, so that network, bundle and robot need to know nothing of it. Two things differ from the
published convention (`vla_ros.core.quantile_bins` has it to the letter): bounds of relative dimensions are made symmetric, since going on
from committed steps moves logits by whole bins and zero therefore has to lie on an edge; and 256 intervals are used instead of 255.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.train.dataset import Dataset

LOW, HIGH = 0.01, 0.99
_FRAMES = 20_000  # enough for quantiles; more would only be read from the disk


def quantile_spec(dataset: Dataset, seed: int = 0) -> ActionSpec:
    """The dataset's action with narrower bounds for its relative dimensions, from frames to train on; other dimensions stay as they are."""
    spec = dataset.meta.action
    rng = np.random.default_rng(seed)
    drawn = dataset.draw(rng, min(_FRAMES, dataset.num_frames()))
    actions_XD = np.concatenate([shard.arrays["actions"][rows].reshape(-1, spec.num_dims) for shard, rows in drawn]).astype(np.float64)
    bound_D = np.abs(np.quantile(actions_XD, (LOW, HIGH), axis=0)).max(0)
    dims = []
    for dim, bound in zip(spec.dims, bound_D):
        bound = float(np.clip(bound, 0.01 * dim.high, dim.high))  # a dimension that hardly moves keeps a hundredth of its range
        dims.append(replace(dim, low=-bound, high=bound) if dim.relative else dim)
    return replace(spec, dims=tuple(dims))
