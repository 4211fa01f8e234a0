# SPDX-License-Identifier: Apache-2.0
"""Machine-readable results: JSON files that are complete or absent, and the facts about the machine behind a figure."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from vla_ros import __version__
from vla_ros.core.errors import ConfigError

#: Execution providers of ``runtime.session``, repeated here so that ``--help`` needs no onnxruntime; a test keeps them equal.
PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino")

VERSIONED_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "mujoco", "ros-rclpy", "torch", "pin", "ruckig")


def write_json(path: str | Path, results: Mapping[str, object]) -> Path:
    """Writes ``results`` as indented JSON, atomically; makes the folder.

    Raises:
        ConfigError: if the path cannot be written.
    """
    target = Path(path).expanduser()
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
    return target


def machine_facts() -> dict[str, object]:
    """What a figure depends on: interpreter, processor, number of cores this process may use, package versions."""
    return {
        "vla_ros": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that matter to a result, of those that are installed."""
    versions = {}
    for name in VERSIONED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
