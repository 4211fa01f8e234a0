# SPDX-License-Identifier: Apache-2.0
"""When a core of this machine ran nothing of ours, whatever its priority: a host that serves other machines, or the kernel itself.

On each core a process of its own with the highest priority wakes a thousand times a second and notes when it woke late. What a control loop could
not have done better is told so from what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from vla_ros.processes import die_with_parent
from vla_ros.ros.scheduling import be_punctual, lock_memory, set_fifo

PERIOD_NS = 1_000_000
SHORTEST_NS = 1_000_000
_PRIORITY = 99


class StallWatch:
    """Watches all cores of this process while it is entered.

    Attributes:
        stalls_ns: after the exit, begin and end of each on the monotonic clock, int64 [N, 2], by time.
    """

    def __enter__(self) -> StallWatch:
        self.stalls_ns = np.zeros((0, 2), dtype=np.int64)
        self._children = [
            subprocess.Popen([sys.executable, "-m", __name__, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
            for core in sorted(os.sched_getaffinity(0))
        ]
        return self

    def __exit__(self, *_: object) -> None:
        found = [json.loads(child.communicate()[0] or b"[]") for child in self._children]
        self.stalls_ns = np.array(sorted(sum(found, [])), dtype=np.int64).reshape(-1, 2)


def stalled_ns(stalls_ns: np.ndarray, begin_ns: int, end_ns: int) -> int:
    """How long some core stalled between two moments; where two did at once it counts once."""
    total = reached_ns = 0
    for begin, end in np.clip(stalls_ns[(stalls_ns[:, 1] > begin_ns) & (stalls_ns[:, 0] < end_ns)], begin_ns, end_ns):
        total += max(end - max(begin, reached_ns), 0)
        reached_ns = max(reached_ns, end)
    return int(total)


def missed_without_stalls(rows: np.ndarray, stalls_ns: np.ndarray, period_ns: int) -> int:
    """Periods that would have been missed had no core stalled.

    Args:
        rows: of ``vla_ros.ros.bench_node``: ``woke_ns``, ``lateness_ns``, ``missed``.
        stalls_ns: int64 [N, 2].
        period_ns: of the loop.
    """
    missed = 0
    for index in np.flatnonzero(np.diff(rows["missed"]) > 0):
        due_ns, next_ns = int(rows["woke_ns"][index] - rows["lateness_ns"][index]), int(rows["woke_ns"][index + 1])
        busy_ns = next_ns - due_ns - stalled_ns(stalls_ns, due_ns, next_ns)
        missed += max(min(busy_ns // period_ns - 1, int(rows["missed"][index + 1] - rows["missed"][index])), 0)
    return missed


def stalls_within(rows: np.ndarray, stalls_ns: np.ndarray) -> np.ndarray:
    """Lengths, ns, of the stalls while these rows were recorded."""
    inside = (stalls_ns[:, 1] > rows["woke_ns"][0]) & (stalls_ns[:, 0] < rows["woke_ns"][-1])
    return stalls_ns[inside, 1] - stalls_ns[inside, 0]


def main(argv: Sequence[str]) -> int:
    """Watches one core until the input ends, then prints begin and end of each stall as JSON."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    os.sched_setaffinity(0, {int(argv[0])})
    be_punctual()
    with contextlib.suppress(OSError):
        lock_memory()
    set_fifo(_PRIORITY)
    found, due_ns = [], time.monotonic_ns()
    while not stop.is_set():
        due_ns += PERIOD_NS
        rest_ns = due_ns - time.monotonic_ns()
        if rest_ns > 0:
            time.sleep(rest_ns * 1e-9)
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > SHORTEST_NS:
            found.append((due_ns, now_ns))
            due_ns = now_ns
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
