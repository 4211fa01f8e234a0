# SPDX-License-Identifier: Apache-2.0
"""ament_pep257 with Google's convention, as `colcon test` runs it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# D1: the style asks for docstrings of public things where they add to the name (ament's default ignores D1 as well).
# D402, D403 and D415 mistake formulas and names (MuJoCo, RViz) at the start of a sentence; D417 asks for each argument, also where its name says all.
# D205 and D209: a summary may take two lines.
IGNORED = "D100 D101 D102 D103 D104 D105 D106 D107 D205 D209 D301 D402 D403 D415 D417".split()


@pytest.mark.linter
@pytest.mark.pep257
@pytest.mark.skipif(not (ROOT / "package.xml").is_file(), reason="an installed package, not a clone")
def test_pep257(capfd):
    ament_pep257 = pytest.importorskip("ament_pep257.main", reason="ament_pep257 is not installed (ROS package)")
    paths = [str(ROOT / part) for part in ("vla_ros", "launch", "test", "setup.py")]
    code = ament_pep257.main(argv=["--convention", "google", "--add-ignore", *IGNORED, "--", *paths])
    assert code == 0, capfd.readouterr()
