# SPDX-License-Identifier: Apache-2.0
"""Profiles, shares and latencies; and pictures that really travel."""

from __future__ import annotations

import json

import pytest

from vla_ros.bench import command, transport


def test_each_way_has_an_environment_of_its_own():
    profiles = transport.profiles_of("rmw_fastrtps_cpp")
    assert set(profiles) == {transport.SHIPPED, transport.DEFAULT, transport.UDP}
    assert all(profiles[transport.SHIPPED][name].endswith("fastdds_profile.xml") for name in transport.PROFILE_VARIABLES)
    assert all(profiles[transport.DEFAULT][name] is None for name in transport.PROFILE_VARIABLES)  # whatever the user has set is taken away
    assert profiles[transport.UDP]["FASTDDS_BUILTIN_TRANSPORTS"] == "UDPv4"
    assert set(transport.profiles_of("rmw_cyclonedds_cpp")) == {transport.DEFAULT}


def test_what_did_not_arrive_is_lost():
    lost, latency = transport.entries_of(transport.SHIPPED, [1.0, 2.0, 3.0], sent=4)
    assert lost["p50"] == 25.0 and lost["received"] == 3 and command.over_limit(lost)
    assert latency["p50"] == 2.0
    (only,) = transport.entries_of(transport.DEFAULT, [], sent=4)
    assert only["p50"] == 100.0 and "limit" not in only


@pytest.mark.ros
@pytest.mark.slow
def test_pictures_travel_by_every_way(tmp_path):
    pytest.importorskip("rclpy")
    path = tmp_path / "bench.json"
    assert command.main(["transport", "--pictures", "10", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    lost = {row["name"]: row for row in report["results"] if row["metric"] == "pictures_lost"}
    assert set(lost) == {transport.SHIPPED, transport.DEFAULT, transport.UDP}
    assert lost[transport.SHIPPED]["received"] > 0 and lost[transport.SHIPPED]["sent"] == 10
