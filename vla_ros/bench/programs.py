# SPDX-License-Identifier: Apache-2.0
"""Child processes that answer: one line in, one line of JSON out. Their logs go to a file; they end with this process."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.core.errors import VlaError
from vla_ros.processes import die_with_parent
from vla_ros.ros.answers import ANSWER


class Program:
    """A running Python module. Use as a context manager.

    Args:
        module: run with ``python -m``.
        arguments: of it.
        log: file that takes its stderr.
        environment: added to this process's; None as a value removes a variable.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str | None] | None = None) -> None:
        self.name, self.log = module.rpartition(".")[2], log
        merged: dict[str, str | None] = {**os.environ, **(environment or {})}
        with log.open("wb") as stream:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={name: value for name, value in merged.items() if value is not None},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._popen.stdout, selectors.EVENT_READ)
        self._pending = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def ask(self, line: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Sends one line and returns the answer.

        Raises:
            VlaError: it refused (``error`` in its answer), died or was silent; with the end of its log.
        """
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except OSError as error:
            raise self.failure(f"cannot be reached ({error.strerror})") from error
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                if line.startswith(ANSWER.encode()):
                    return self._checked(json.loads(line[len(ANSWER) :]))
                continue
            if not self._selector.select(max(deadline - time.monotonic(), 0.0)):
                raise self.failure(f"did not answer within {timeout_s:.0f} s")
            block = os.read(self._popen.stdout.fileno(), 65536)
            if not block:
                raise self.failure(f"ended with code {self._popen.wait()}")
            self._pending += block

    def stop(self) -> None:
        """Closes its input, which ends it; kills it if it stays."""
        try:
            self._popen.stdin.close()
            self._popen.wait(8.0)
        except (OSError, subprocess.TimeoutExpired):
            self._popen.kill()
            self._popen.wait()
        self._popen.stdout.close()
        self._selector.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise self.failure(answer["error"])
        return answer

    def failure(self, reason: str) -> VlaError:
        """An error with the end of its log, for the caller to raise."""
        tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        return VlaError(f"{self.name} {reason}; the end of {self.log}:\n{tail}")
