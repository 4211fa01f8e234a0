# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/datasets.md, in the guide's order, each run as it is written."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from recorded_motion import recording, write_recording

import vla_ros
from vla_ros import cli

GUIDE = Path(vla_ros.__file__).resolve().parents[1] / "docs" / "datasets.md"


@pytest.mark.skipif(not GUIDE.is_file(), reason="an installed package has no docs")
def test_every_command_of_the_guide_does_what_it_says(shards, tmp_path, monkeypatch):
    shutil.copytree(shards, tmp_path / "data" / "episodes")
    write_recording(tmp_path / "recordings" / "recordings_0.mcap", recording())
    (tmp_path / "config").symlink_to(GUIDE.parents[1] / "config")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert len(lines) == 7
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "vla" and cli.main(words) == 0, line
    for made in ("dataset_statistics.json", "lerobot/episodes/meta/info.json", "data/back/meta.yaml", "lerobot/robot/meta/info.json"):
        assert (tmp_path / made).is_file(), made
