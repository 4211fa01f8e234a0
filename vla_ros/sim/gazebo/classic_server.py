# SPDX-License-Identifier: Apache-2.0
"""Starts ``gzserver`` of Gazebo Classic 11 without a screen: the one of this machine, or that of ``tools/gazebo_classic.sh``."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vla_ros.core.errors import ConfigError
from vla_ros.processes import Process, wait_until
from vla_ros.sim.gazebo.classic_transport import ClassicConnection, GazeboError

ROOT_VARIABLE = "VLA_GAZEBO_ROOT"
DEFAULT_ROOT = Path("/var/cache/vla_ros/gazebo")
START_S = 60.0
_PREFIX = "vla_gazebo_"
_FIRST_DISPLAY = 90
_GAZEBO = "/usr/share/gazebo-11"
_PLUGINS = "/usr/lib/x86_64-linux-gnu/gazebo-11/plugins"


def gazebo_root() -> Path | None:
    """``/`` where Gazebo Classic 11 is installed, else the folder that ``tools/gazebo_classic.sh setup`` has filled, else None."""
    if shutil.which("gzserver") and shutil.which("Xvfb"):
        return Path("/")
    root = Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT))
    return root if (root / ".vla-ready").exists() and os.geteuid() == 0 else None


class ClassicServer:
    """A virtual screen that stays, and one ``gzserver`` after another on it. Use as a context manager.

    Attributes:
        port: of the master.
        partition: name space of the server's ignition topics.

    Raises:
        ConfigError: Gazebo Classic is not there.
    """

    def __init__(self) -> None:
        root = gazebo_root()
        if root is None:
            raise ConfigError(
                "Gazebo Classic 11 is not here: run `sudo tools/gazebo_classic.sh setup` once (and be root to use it), or install gazebo and xvfb"
            )
        self._root = root
        _remove_left_overs(root / "tmp")
        self._work = self._logs = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_", dir=root / "tmp"))
        self.port = _port_of(os.environ.get("GAZEBO_MASTER_URI", "")) or _free_port()
        self.partition = f"vla_{os.getpid()}_{self.port}"
        self._gazebo: Process | None = None
        self._display = _free_display(root)
        command = ("Xvfb", f":{self._display}", "-screen", "0", "640x480x24", "-nolisten", "tcp")
        self._screen = Process("Xvfb", self._inside(*command), self._logs / "xvfb.log", environment=self._environment())
        if not wait_until(lambda: self._socket_of_display().exists(), START_S):
            self.close()
            raise GazeboError(f"Xvfb does not start; the end of {self._screen.log}:\n{self._screen.log_tail()}")

    def start(self, world: str, *, name: str, paused: bool, lockstep: bool) -> ClassicConnection:
        """Ends the present server, starts one with ``world`` (SDF text, its world is ``name``) and connects to it.

        Raises:
            GazeboError: it did not come up; with the end of its log.
        """
        self.stop()
        file = self._work / "scene.world"
        file.write_text(world, encoding="utf-8")
        inside = "/" + str(file.relative_to(self._root))
        options = [*(["--lockstep"] if lockstep else []), *(["-u"] if paused else [])]
        self._gazebo = Process(
            "gzserver", self._inside("gzserver", *options, inside), self._logs / "gzserver.log", environment=self._environment()
        )
        connection: list[ClassicConnection] = []

        def is_up() -> bool:
            if self._gazebo.exit_code is not None:
                raise GazeboError(
                    f"gzserver ended with code {self._gazebo.exit_code}; the end of {self._gazebo.log}:\n{self._gazebo.log_tail()}"
                )
            try:
                connection.append(ClassicConnection(self.port, name))
            except GazeboError:
                return False
            return True

        if not wait_until(is_up, START_S):
            raise GazeboError(
                f"gzserver does not listen on port {self.port} after {START_S:g} s; the end of {self._gazebo.log}:\n{self._gazebo.log_tail()}"
            )
        return connection[0]

    @property
    def pid(self) -> int | None:
        """Process id of the present ``gzserver`` (its parent in the folder's case)."""
        return None if self._gazebo is None else self._gazebo.pid

    def is_running(self) -> bool:
        """Whether the present server lives."""
        return self._gazebo is not None and self._gazebo.exit_code is None

    def log_tail(self) -> str:
        """The end of the present server's log."""
        return "" if self._gazebo is None else self._gazebo.log_tail()

    def stop(self) -> None:
        """Ends the present server, if any."""
        if self._gazebo is not None:
            self._gazebo.stop(timeout_s=2.0)
            self._gazebo = None

    def close(self) -> None:
        """Ends the server and the screen."""
        self.stop()
        self._screen.stop(timeout_s=2.0)
        shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> ClassicServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ----

    def _inside(self, *command: str) -> list[str]:
        return list(command) if self._root == Path("/") else ["chroot", str(self._root), *command]

    def _environment(self) -> Mapping[str, str]:
        address = f"http://127.0.0.1:{self.port}"
        return {
            "DISPLAY": f":{self._display}",
            "HOME": "/tmp",
            "LD_LIBRARY_PATH": _PLUGINS,
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "LP_NUM_THREADS": "1",
            "GAZEBO_MASTER_URI": address,
            "GAZEBO_IP": "127.0.0.1",
            "GAZEBO_MODEL_DATABASE_URI": "",
            "GAZEBO_RESOURCE_PATH": _GAZEBO,
            "GAZEBO_MODEL_PATH": f"{_GAZEBO}/models",
            "GAZEBO_PLUGIN_PATH": _PLUGINS,
            "OGRE_RESOURCE_PATH": "/usr/lib/x86_64-linux-gnu/OGRE-1.9.0",
            "IGN_IP": "127.0.0.1",
            "IGN_PARTITION": self.partition,
        }

    def _socket_of_display(self) -> Path:
        return self._root / "tmp" / ".X11-unix" / f"X{self._display}"


def _remove_left_overs(folder: Path) -> None:
    """Folders of processes that ended without closing, as worker processes do."""
    for path in folder.glob(f"{_PREFIX}*_*"):
        owner = path.name.removeprefix(_PREFIX).partition("_")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _port_of(master_uri: str) -> int | None:
    """The port in ``GAZEBO_MASTER_URI``, where a user has chosen one (so that gzclient can join)."""
    port = master_uri.rpartition(":")[2].strip("/")
    return int(port) if port.isdigit() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _free_display(root: Path) -> int:
    """A display that no other X server uses, here or in the folder."""
    for number in range(_FIRST_DISPLAY + os.getpid() % 100, _FIRST_DISPLAY + 1000):
        places = [base / "tmp" / name for base in {root, Path("/")} for name in (f".X{number}-lock", f".X11-unix/X{number}")]
        if not any(place.exists() for place in places):
            return number
    raise ConfigError("no free X display: end some X servers")
