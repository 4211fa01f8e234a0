# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vla_ros.bench import stalls

MS = 1_000_000
ROW = [("woke_ns", "<i8"), ("lateness_ns", "<i8"), ("missed", "<i8")]


def times(*pairs):
    """Stalls from begin and end in ms."""
    return np.array(pairs, dtype=np.int64).reshape(-1, 2) * MS


def test_two_cores_that_stall_at_once_count_once():
    both = times((0, 4), (2, 6), (3, 5), (20, 30))
    assert stalls.stalled_ns(both, 1 * MS, 25 * MS) == 10 * MS
    assert stalls.stalled_ns(both, 7 * MS, 19 * MS) == 0
    assert stalls.stalled_ns(times(), 0, 100 * MS) == 0


@pytest.mark.parametrize(
    ("found", "own"),
    [
        (times(), 2),  # 33 ms for a period of 10 ms: two missed
        (times((11, 34)), 0),
        (times((100, 134)), 2),  # elsewhere
        (times((11, 15)), 1),  # 29 ms without it
        (times((11, 14), (20, 31)), 0),  # both together
    ],
)
def test_a_missed_period_is_ours_unless_a_stall_explains_it(found, own):
    rows = np.zeros(3, ROW)
    rows["woke_ns"] = np.array([0, 10, 43]) * MS
    rows["missed"] = 0, 0, 2
    assert stalls.missed_without_stalls(rows, found, 10 * MS) == own


def test_stalls_are_those_of_the_record():
    rows = np.zeros(2, ROW)
    rows["woke_ns"] = np.array([10, 20]) * MS
    assert stalls.stalls_within(rows, times((0, 5), (9, 11), (12, 15), (25, 30))).tolist() == [2 * MS, 3 * MS]


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))"], capture_output=True, check=False).returncode != 0,
    reason="SCHED_FIFO is not allowed",
)
def test_a_core_that_is_kept_by_somebody_else_is_found():
    import time

    keep = (
        "import os, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))\n"
        "begin = time.monotonic_ns()\nwhile time.monotonic_ns() - begin < 50_000_000: pass\nprint(begin)"
    )
    with stalls.StallWatch() as watch:
        time.sleep(1.0)
        begin_ns = int(subprocess.run([sys.executable, "-c", keep], check=True, capture_output=True, text=True).stdout)
    assert stalls.stalled_ns(watch.stalls_ns, begin_ns, begin_ns + 50 * MS) >= 40 * MS
