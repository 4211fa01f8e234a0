# SPDX-License-Identifier: Apache-2.0
"""A record made in parts: what an earlier run of the same machine measured stands beside what this one measures. A record takes hours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.core.errors import ConfigError

#: Figures of one record were measured on one machine, by one version.
SAME = ("processor", "cores", "kernel", "python", "vla_ros", "packages")


def earlier_report(path: str | Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The report in ``path``, or an empty one where there is none.

    Raises:
        ConfigError: it is no report, or one of another machine.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"results": [], "notes": [], "dates": []}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot go on with {path}: {error}: give another --json, or leave --append out to write it anew") from error
    if not isinstance(report, dict) or not all(isinstance(report.get(key), list) for key in ("results", "notes", "dates")):
        raise ConfigError(f"cannot go on with {path}: it is no report of vla bench: give another --json")
    other = [key for key in SAME if report.get("machine", {}).get(key) != machine[key]]
    if other:
        raise ConfigError(f"cannot go on with {path}: it was measured with another {', '.join(other)}: give another --json, one for each machine")
    return report


def joined(earlier: Sequence[Mapping[str, Any]], newer: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of both; of one that was measured twice the newer, where the earlier stood."""
    rows = {_key(row): dict(row) for row in earlier}
    rows.update((_key(row), dict(row)) for row in newer)
    return list(rows.values())


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row.get("subject", ""), row["metric"], row["name"]
