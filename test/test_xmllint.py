# SPDX-License-Identifier: Apache-2.0
"""ament_xmllint: package.xml against its schema, and every other XML file is well formed, as `colcon test` runs it."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.linter
@pytest.mark.xmllint
@pytest.mark.skipif(not (ROOT / "package.xml").is_file(), reason="an installed package, not a clone")
@pytest.mark.skipif(shutil.which("xmllint") is None, reason="xmllint is not installed (package libxml2-utils)")
def test_xmllint():
    ament_xmllint = pytest.importorskip("ament_xmllint.main", reason="ament_xmllint is not installed (ROS package)")
    assert ament_xmllint.main(argv=[str(ROOT / "package.xml"), str(ROOT / "config")]) == 0
