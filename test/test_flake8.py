# SPDX-License-Identifier: Apache-2.0
"""ament_flake8 with the section ``[flake8]`` of setup.cfg, as `colcon test` runs it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.flake8
@pytest.mark.linter
@pytest.mark.skipif(not (ROOT / "package.xml").is_file(), reason="an installed package, not a clone")
def test_flake8():
    ament_flake8 = pytest.importorskip("ament_flake8.main", reason="ament_flake8 is not installed (ROS package)")
    paths = [str(ROOT / part) for part in ("vla_ros", "launch", "test", "setup.py")]
    code, errors = ament_flake8.main_with_errors(argv=["--config", str(ROOT / "setup.cfg"), *paths])
    assert code == 0, f"{len(errors)} code style errors:\n" + "\n".join(errors)
