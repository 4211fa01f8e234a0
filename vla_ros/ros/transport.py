# SPDX-License-Identifier: Apache-2.0
"""Makes Fast DDS carry camera images. Must be called before the first participant of the process exists; imports no rclpy.

Fast DDS's built-in shared memory segment holds half a megabyte: larger images lose fragments (29 % of 640x480 rgb8 at 30 Hz arrived).
The profile in ``config/fastdds_profile.xml`` has room for several images (97 to 99 % arrived).
"""

from __future__ import annotations

import os
from pathlib import Path

from vla_ros.core.paths import share_dir

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""The name up to Fast DDS 2 (Humble, Jazzy), and since Fast DDS 3 (Kilted and newer)."""


def profile_path() -> Path:
    """Returns the path of the shipped profile."""
    return share_dir() / "config" / "fastdds_profile.xml"


def use_fastdds_profile() -> str | None:
    """Points Fast DDS at the shipped profile unless the user chose one. Child processes inherit the choice.

    Returns:
        The path in use, or ``None`` where the shipped file is absent and the user chose none.
    """
    chosen = next((os.environ[name] for name in PROFILE_VARIABLES if os.environ.get(name)), None)
    if chosen is None and profile_path().is_file():
        chosen = str(profile_path())
    if chosen is not None:
        for name in PROFILE_VARIABLES:
            os.environ.setdefault(name, chosen)
    return chosen
