# SPDX-License-Identifier: Apache-2.0
"""Compares this shell's ROS environment with that of the ROS processes on this machine: the usual reason why nodes do not see each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vla_ros.finding import FAIL, OK, WARN, Finding

_DEFAULTS = {"ROS_DOMAIN_ID": "0", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_OWN = ("vla_policy", "vla_sim", "vla_ros")  # these set the profile themselves
_DAEMON = "ros2cli.daemon"  # one for each domain in which a ros2 command was used; it exchanges nothing with nodes


@dataclass(frozen=True, kw_only=True)
class RosProcess:
    """A process that has ROS 2's client library loaded; ``environment`` as it was at its start."""

    pid: int
    command: str
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        """Number and the last parts of its command line."""
        return f"process {self.pid} ({' '.join(self.command.split()[:4])[-60:]})"


def ros_processes(proc: Path = Path("/proc")) -> list[RosProcess]:
    """ROS processes of this user other than this one, its parent and the daemons of the ``ros2`` command."""
    own = {os.getpid(), os.getppid()}
    return [found for path in proc.glob("[0-9]*") if int(path.name) not in own and (found := _read(path)) is not None]


def _read(path: Path) -> RosProcess | None:
    try:
        if "librcl.so" not in (path / "maps").read_text(encoding="utf-8", errors="replace"):
            return None
        pairs = (path / "environ").read_bytes().decode("utf-8", "replace").split("\0")
        command = (path / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError:  # another user's, or gone
        return None
    if _DAEMON in command:
        return None
    environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return RosProcess(pid=int(path.name), command=command, environment=environment)


def check_environment(processes: list[RosProcess], environment: Mapping[str, str], *, alone: bool) -> list[Finding]:
    """What makes this shell and those processes deaf to each other.

    Args:
        processes: others on this machine.
        environment: this shell's.
        alone: no node is visible from here; then being deaf is the fault, otherwise it may be meant.
    """
    findings = [finding for process in processes for finding in _differences(process, environment, FAIL if alone else WARN)]
    domain = environment.get("ROS_DOMAIN_ID", "0")
    summary = f"domain {domain}, {_scope(environment)}, {len(processes)} ROS processes of this user"
    return findings or [Finding(name="ROS environment", state=OK, found=summary)]


def _differences(process: RosProcess, mine: Mapping[str, str], deaf: str) -> Iterator[Finding]:
    theirs = process.environment
    for variable, default in _DEFAULTS.items():
        a, b = theirs.get(variable) or default, mine.get(variable) or default
        if a != b:
            remedy = f"export {variable}={a} in this shell, or start that process with {variable}={b}: nodes of different ones never meet"
            found = f"{process.name} has {variable}={a}, this shell {b}"
            yield Finding(name="ROS environment", state=deaf, found=found, remedy=remedy)
    if "off" in (_scope(theirs), _scope(mine)) and _scope(theirs) != _scope(mine):
        found = f"{process.name} and this shell do not both allow discovery (ROS_AUTOMATIC_DISCOVERY_RANGE=OFF)"
        yield Finding(
            name="ROS environment", state=deaf, found=found, remedy="unset ROS_AUTOMATIC_DISCOVERY_RANGE on both sides, or set SUBNET"
        )
    elif _scope(theirs) != _scope(mine):
        found = f"{process.name} uses {_scope(theirs)}, this shell {_scope(mine)}"
        remedy = "set ROS_AUTOMATIC_DISCOVERY_RANGE (and the older ROS_LOCALHOST_ONLY) the same on both sides: other machines see only one of them"
        yield Finding(name="ROS environment", state=WARN, found=found, remedy=remedy)
    is_fast = (theirs.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp").startswith("rmw_fastrtps")
    if is_fast and not any(theirs.get(v) for v in _PROFILES) and not any(word in process.command for word in _OWN):
        found = f"{process.name} runs without a Fast DDS profile: pictures above half a megabyte are mostly lost"
        remedy = "export FASTRTPS_DEFAULT_PROFILES_FILE=.../share/vla_ros/config/fastdds_profile.xml before starting camera drivers"
        yield Finding(name="DDS profile of others", state=WARN, found=found, remedy=remedy)


def _scope(environment: Mapping[str, str]) -> str:
    if environment.get("ROS_LOCALHOST_ONLY") == "1":
        return "localhost only"
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET").upper()
    return {"LOCALHOST": "localhost only", "OFF": "off"}.get(reach, "the network")
