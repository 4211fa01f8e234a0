# SPDX-License-Identifier: Apache-2.0
"""Every source file that ament_copyright would look at names the licence.

ament_copyright itself knows the long Apache header only, not SPDX; so its choice of files is used, and the identifier is looked for.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IDENTIFIER = "SPDX-License-Identifier: Apache-2.0"
HEADER_CHARACTERS = 400


@pytest.mark.copyright
@pytest.mark.linter
@pytest.mark.skipif(not (ROOT / "package.xml").is_file(), reason="an installed package, not a clone")
def test_copyright():
    crawler = pytest.importorskip("ament_copyright.crawler", reason="ament_copyright is not installed (ROS package)")
    from ament_copyright.parser import parse_file

    assert parse_file(str(ROOT / "LICENSE")).license_identifier == "apache2"
    files = crawler.get_files([str(ROOT / part) for part in ("vla_ros", "launch", "test")], ["py", "c", "cpp", "h", "hpp"], [])
    assert str(ROOT / "vla_ros" / "cli.py") in files
    assert [path for path in files if IDENTIFIER not in Path(path).read_text(encoding="utf-8")[:HEADER_CHARACTERS]] == []
