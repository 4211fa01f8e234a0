# SPDX-License-Identifier: Apache-2.0
"""Slots between processes: nothing torn, the newest wins, nobody waits, nobody's exit removes another's segment."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.runtime.exchange import Slot

RECORD = np.dtype([("count", "<i8"), ("values", "<f8", (2000,))])
READER = """
    import sys, time, numpy as np
    from vla_ros.runtime.exchange import Slot
    dtype = np.dtype([("count", "<i8"), ("values", "<f8", (2000,))])
    slot, last, seen, end = Slot(sys.argv[1], dtype, create=False), 0, 0, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        record = slot.read()
        if record is None:
            continue
        assert (record["values"] == record["count"]).all(), "torn"
        assert record["count"] > last, "older than before"
        last, seen = record["count"], seen + 1
    print(seen, last)
"""


def run(code: str, *args: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def name():
    return f"vla_test_{os.getpid()}_{time.monotonic_ns()}"


def record_of(count: int) -> np.ndarray:
    record = np.zeros((), RECORD)
    record["count"], record["values"] = count, count
    return record


def test_newest_wins_and_is_read_once(name):
    with Slot(name, RECORD, create=True) as writer, Slot(name, RECORD, create=False) as reader:
        assert reader.read() is None
        writer.write(record_of(1))
        writer.write(record_of(2))
        assert reader.read()["count"] == 2
        assert reader.read() is None


def test_a_record_read_is_not_changed_by_later_writes(name):
    with Slot(name, RECORD, create=True) as writer, Slot(name, RECORD, create=False) as reader:
        writer.write(record_of(1))
        record = reader.read()
        writer.write(record_of(2))
        assert record["count"] == 1 and (record["values"] == 1).all()


def test_two_processes_at_full_speed_tear_nothing(name):
    with Slot(name, RECORD, create=True) as slot:
        reader = run(READER, name, "2.0")
        count = 0
        while reader.poll() is None:
            count += 1
            slot.write(record_of(count))
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        seen, last = map(int, out.split())
        assert seen > 100 and last <= count


def test_the_exit_of_a_reader_leaves_the_segment_and_says_nothing(name):
    with Slot(name, RECORD, create=True) as slot:
        slot.write(record_of(5))
        reader = run(READER, name, "0.01")
        out, err = reader.communicate()
        assert (reader.returncode, err) == (0, "") and out.split()[0] == "1"
        time.sleep(0.2)  # a resource tracker would remove it now
        with Slot(name, RECORD, create=False) as again:
            assert again.read()["count"] == 5


def test_a_writer_killed_inside_blocks_nobody_and_its_successor_goes_on(name):
    with Slot(name, RECORD, create=True) as writer, Slot(name, RECORD, create=False) as reader:
        writer.write(record_of(1))
        writer._header["sequence"] = writer.sequence + 1
        start = time.monotonic()
        assert reader.read() is None and time.monotonic() - start < 0.5
        with Slot(name, RECORD, create=False) as successor:
            successor.write(record_of(2))
            assert reader.read()["count"] == 2


def test_a_half_written_record_is_never_given(name):
    with Slot(name, RECORD, create=True) as writer, Slot(name, RECORD, create=False) as reader:
        writer.write(record_of(1))
        writer._bytes[100] ^= 1
        assert reader.read() is None


def test_the_owner_removes_the_segment(name):
    Slot(name, RECORD, create=True).close()
    with pytest.raises(ConfigError, match="does not exist"):
        Slot(name, RECORD, create=False)


def test_a_second_owner_and_another_layout_are_refused(name):
    with Slot(name, RECORD, create=True):
        with pytest.raises(ConfigError, match="exists"):
            Slot(name, RECORD, create=True)
        with pytest.raises(ConfigError, match="layout"):
            Slot(name, np.dtype([("count", "<i8")]), create=False)
        with pytest.raises(ConfigError, match="bytes"):
            Slot(name, np.dtype([("values", "<f8", (9000,))]), create=False)


def test_objects_have_no_place_in_a_slot(name):
    with pytest.raises(ConfigError, match="objects"):
        Slot(name, np.dtype([("anything", object)]), create=True)


def test_opening_and_closing_leaks_no_descriptor(name):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with Slot(name, RECORD, create=True) as slot, Slot(name, RECORD, create=False) as reader:
            slot.write(record_of(1))
            reader.read()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the resource tracker's pipe, once
