# SPDX-License-Identifier: Apache-2.0
"""Which tests need a real Gazebo, and when they run: they take minutes, so ``make gazebo-test`` and ``.ci/run`` ask for them."""

from __future__ import annotations

import os

import pytest

from vla_ros.sim.gazebo.classic_server import gazebo_root

_ASKED_FOR = "VLA_GAZEBO_TEST"
_LIMIT_S = 240  # of one test; the longest plays five episodes of the policy


def pytest_collection_modifyitems(items):
    """Skips what is marked ``gazebo`` where it was not asked for or cannot run; bounds the rest, as a server can hang."""
    items = [item for item in items if item.get_closest_marker("gazebo")]
    if not os.environ.get(_ASKED_FOR):
        reason = "takes minutes: sudo make gazebo-test"
    elif gazebo_root() is None:
        reason = "Gazebo Classic 11 is not here: sudo make gazebo-test"
    else:
        reason = None
    for item in items:
        item.add_marker(pytest.mark.timeout(_LIMIT_S) if reason is None else pytest.mark.skip(reason=reason))
