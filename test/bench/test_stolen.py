# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vla_ros.bench.stolen import StolenTime


@pytest.mark.parametrize(("stolen", "said"), [(0, []), (5, ["50 Hz: the host kept the processors from this machine for 5.0% of the time"])])
def test_time_that_the_host_kept_is_a_note(stolen, said, tmp_path):
    statistics = tmp_path / "stat"
    statistics.write_text("cpu  10 10 10 1000 10 0 0 7 50 50\ncpu0 1 1 1 1\n")
    time = StolenTime(statistics)
    assert time.share == 0.0
    statistics.write_text(f"cpu  30 10 20 {1070 - stolen} 10 0 0 {7 + stolen} 90 90\ncpu0 1 1 1 1\n")
    assert time.share == pytest.approx(stolen / 100) and time.notes("50 Hz") == said


def test_this_system_tells():
    assert 0.0 <= StolenTime().share <= 1.0
