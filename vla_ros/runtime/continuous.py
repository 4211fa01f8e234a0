# SPDX-License-Identifier: Apache-2.0
"""The graph of a policy that gives actions themselves and no tokens (action regression, such as ACT, arXiv 2304.13705)."""

from __future__ import annotations

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.runtime.contract import ACTIONS
from vla_ros.runtime.session import MAX_RELATIVE_ERROR, BoundGraph, BundleGraph, relative_error


class ContinuousPolicy(BundleGraph):
    """The policy graph of a bundle whose manifest says ``output: continuous``."""

    def _verify_against(self, reference: BoundGraph) -> None:
        verify_answers(self, reference)


def verify_answers(policy: BoundGraph, reference: BoundGraph) -> None:
    """Compares a provider's actions with the CPU's on noise.

    Raises:
        ConfigError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    probe = {
        name: rng.integers(0, 256, spec.shape, dtype=np.uint8)
        if spec.dtype is np.uint8
        else rng.standard_normal(spec.shape).astype(spec.dtype)
        for name, spec in policy.inputs.items()
    }
    actions_DH, expected_DH = (graph.infer(probe)[ACTIONS][0].T for graph in (policy, reference))
    error = relative_error(actions_DH, expected_DH)
    if not error <= MAX_RELATIVE_ERROR:  # NaN is no error that is small enough
        raise ConfigError(
            f"execution_provider '{policy.provider}' computes this bundle wrongly: its actions differ from the CPU's by {error:.1%} of their spread, "
            f"allowed is {MAX_RELATIVE_ERROR:.0%}. Choose cpu, or try another release of the provider"
        )
