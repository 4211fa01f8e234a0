# SPDX-License-Identifier: Apache-2.0
"""Files are found in a clone and in an installation."""

from __future__ import annotations

import sys

import pytest

import vla_ros
from vla_ros.core import paths
from vla_ros.core.errors import ConfigError


def test_the_clone_comes_first():
    assert (paths.share_dir() / "config" / "robots").is_dir()
    assert paths.robot_config_path("tabletop_arm").name == "tabletop_arm.yaml"


def test_an_installation_is_found_by_prefix_and_by_ament(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "vla_ros" / "__init__.py"
    monkeypatch.setattr(vla_ros, "__file__", str(package))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    ament = tmp_path / "ament"
    (ament / "share" / "vla_ros" / "config" / "robots").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'empty'}:{ament}")
    assert paths.share_dir() == ament / "share" / "vla_ros"
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    with pytest.raises(ConfigError, match="source the workspace"):
        paths.share_dir()


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="tabletop_arm"):
        paths.robot_config_path("hexapod")
    with pytest.raises(ConfigError, match="manifest.yaml"):
        paths.bundle_dir("no such bundle")
    (tmp_path / "manifest.yaml").touch()
    assert paths.bundle_dir(str(tmp_path)) == tmp_path
