# SPDX-License-Identifier: Apache-2.0
"""A log that nobody reads must not stop the robot.

rclpy writes its log to standard error and keeps the interpreter's lock meanwhile: a terminal that is stopped with Ctrl-S, or a full pipe,
holds up every Python thread, the control thread among them. Here the process writes into a pipe of its own that never blocks (what has no
room is lost), and a thread passes it on; that thread may wait as long as it likes, since ``os.write`` gives the lock away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from types import TracebackType

_STDERR = 2
_PIPE_BYTES = 1 << 20  # the most that Linux lets everybody have; a smaller one does, too
_LAST_WORDS_S = 0.5


class LogPump:
    """While open, standard error cannot block. Child processes inherit it. Use as a context manager."""

    def __enter__(self) -> LogPump:
        self._stderr = os.dup(_STDERR)
        if os.isatty(self._stderr):
            os.environ.setdefault("RCUTILS_COLORIZED_OUTPUT", "1")  # a pipe is no terminal, but there is one behind it
        self._read_end, write_end = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(write_end, False)
        os.dup2(write_end, _STDERR)
        os.close(write_end)
        self._thread = threading.Thread(target=self._run, name="vla_log", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Gives standard error back once what was said has been passed on; not later than in half a second."""
        os.dup2(self._stderr, _STDERR)
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            while data := os.read(self._read_end, 65536):
                while data:
                    data = data[os.write(self._stderr, data) :]
