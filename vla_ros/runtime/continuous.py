# SPDX-License-Identifier: Apache-2.0
"""The graph of a policy that gives actions themselves and no tokens (action regression, such as ACT, arXiv 2304.13705)."""

from __future__ import annotations

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import ACTIONS, verify_signature
from vla_ros.runtime.session import MAX_RELATIVE_ERROR, BoundGraph, relative_error


class ContinuousPolicy(BoundGraph):
    """The policy graph of a bundle whose manifest says ``output: continuous``. One thread only.

    Args:
        bundle: a verified bundle.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available.

    Raises:
        ConfigError: an unknown provider, one that is not available, or one whose answers differ from the CPU's.
        BundleError: the graph cannot be loaded or does not fit the manifest.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        super().__init__(bundle.policy_path, provider, threads, allow_cpu)
        self.bundle = bundle
        verify_signature(bundle.manifest, self._session.get_inputs(), self._session.get_outputs())
        if self.provider != "cpu":
            verify_answers(self, BoundGraph(bundle.policy_path, "cpu", threads))


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
