# SPDX-License-Identifier: Apache-2.0
"""Tests stay out of the domains of whatever else runs on this machine, such as a soak or a demo."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path


def test_a_domain_in_which_somebody_listens_is_left_alone(request):
    (conftest,) = [p for p in request.config.pluginmanager.get_plugins() if getattr(p, "__file__", "") == str(Path(__file__).with_name("conftest.py"))]
    with conftest.ros_domain() as number:
        following = number % 100 + 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        with contextlib.suppress(OSError):  # somebody is there already
            somebody.bind(("", 7400 + 250 * following + 10))
        with conftest.ros_domain() as number:
            assert number != following
