# SPDX-License-Identifier: Apache-2.0
"""How a reader gets what an extra of setup.py brings. vla_ros itself is on no package index, so that its name is nothing for pip."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires


def packages_of(extra: str) -> list[str]:
    """Names of the packages that an extra brings, as the installed package declares them; none where it is not installed."""
    try:
        declared = requires("vla_ros") or []
    except PackageNotFoundError:
        return []
    matching = [line for line in declared if re.search(rf"""extra\s*==\s*["']{extra}["']""", line)]
    return [re.match(r"[\w.-]+(?:\[[\w,-]+\])?", line)[0] for line in matching]


def how_to_install(extra: str) -> str:
    """The command for a ROS 2 workspace, where an installed extra would bring a second numpy beside the system's, and the one for a clone."""
    in_clone = f'pip install ".[{extra}]"' if extra else "pip install ."
    if extra == "ros":
        return f"source a ROS 2 installation (Jazzy or newer), or in a clone: {in_clone}"
    if not extra:
        return f"in a ROS 2 workspace: rosdep install --from-paths src --ignore-src -y, and pip install tokenizers ruckig   (in a clone: {in_clone})"
    packages = packages_of(extra)
    return f"pip install {' '.join(packages)}   (in a clone: {in_clone})" if packages else f"in a clone: {in_clone}"
