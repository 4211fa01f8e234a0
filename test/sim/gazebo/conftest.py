# SPDX-License-Identifier: Apache-2.0
"""Which tests need a real Gazebo, and when they run: they take minutes, so ``make gazebo-test`` asks for them."""

from __future__ import annotations

import os

import pytest

from vla_ros.sim.gazebo.classic_server import gazebo_root

_ASKED_FOR = "VLA_GAZEBO_TEST"


def pytest_collection_modifyitems(items):
    """Skips what is marked ``gazebo`` where it was not asked for or cannot run."""
    if not os.environ.get(_ASKED_FOR):
        reason = "takes minutes: sudo make gazebo-test"
    elif gazebo_root() is None:
        reason = "Gazebo Classic 11 is not here: sudo make gazebo-test"
    else:
        return
    for item in items:
        if item.get_closest_marker("gazebo"):
            item.add_marker(pytest.mark.skip(reason=reason))
