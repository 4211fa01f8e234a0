# SPDX-License-Identifier: Apache-2.0
"""The rigs of the ROS tests, for the faults of FAULTS.md: the real node over DDS beside a fake robot."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("ros_rigs", Path(__file__).parents[1] / "ros" / "conftest.py")
_rigs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rigs)

tiny_bundle, make_bundle, domain, context = _rigs.tiny_bundle, _rigs.make_bundle, _rigs.domain, _rigs.context
make_rig, shared_rig, rig, wait_until = _rigs.make_rig, _rigs.shared_rig, _rigs.rig, _rigs.wait_until
