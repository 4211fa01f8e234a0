# SPDX-License-Identifier: Apache-2.0
"""Who may use the operator page."""

from __future__ import annotations

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.ros.console.access import SESSION_S, Access, is_open_to_others, read_token

TOKEN = "correct horse battery staple"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "robot.example"])
def test_the_network_needs_a_token(host):
    with pytest.raises(ConfigError, match="--token-file"):
        Access(host, None)
    assert Access(host, TOKEN).needs_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]"])
def test_this_machine_needs_none(host):
    assert not Access(host, None).needs_token


@pytest.mark.parametrize("host", ["localhost", "localhost:8710", "LOCALHOST:9000", "127.0.0.1:8710", "[::1]:8710"])
def test_own_names_are_answered_whatever_the_tunnels_port(host):
    assert Access("127.0.0.1", None).is_own_host(host)


FOREIGN = [
    "evil.example",
    "evil.example:8710",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil@localhost",
    "localhost/x",
    "",
    None,
    "[",
]


@pytest.mark.parametrize("host", [*FOREIGN, "192.168.1.7:8710"])
def test_a_name_that_somebody_else_can_point_here_is_refused(host):
    assert not Access("127.0.0.1", None).is_own_host(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names_are_refused_with_a_token_too(host):
    access = Access("0.0.0.0", TOKEN)
    assert not access.is_own_host(host)
    assert access.is_own_host("192.168.1.7:8710") and access.is_own_host("[fe80::1]:8710")


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://localhost:8710", True),
        ("https://localhost:8710", True),
        ("http://localhost:8711", False),
        ("http://127.0.0.1:8710", False),
        ("http://evil.example", False),
        ("http://localhost:8710.evil.example", False),
        ("http://localhost:8710/x", False),
        ("file://", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_page_itself_is_its_origin(origin, own):
    assert Access("127.0.0.1", None).is_own_origin(origin, "localhost:8710") is own


def test_a_session_begins_with_the_token_and_ends_by_itself():
    now_s = [0.0]
    access = Access("0.0.0.0", TOKEN, now_s=lambda: now_s[0])
    assert access.log_in("wrong") is None and access.log_in("") is None
    session = access.log_in(f" {TOKEN}\n")
    assert session
    assert access.is_known(f"other=1; c={session}", "c", None)
    assert not access.is_known(f"c={session}", "d", None)
    assert (
        not access.is_known(f"c={session[:-1]}", "c", None)
        and not access.is_known(None, "c", None)
        and not access.is_known("c=é", "c", None)
    )
    now_s[0] = SESSION_S + 1.0
    assert not access.is_known(f"c={session}", "c", None)


def test_programs_send_the_token_itself():
    access = Access("0.0.0.0", TOKEN)
    assert access.is_known(None, "c", f"Bearer {TOKEN}")
    for header in ("", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"):
        assert not access.is_known(None, "c", header), header


def test_sessions_do_not_pile_up():
    access = Access("0.0.0.0", TOKEN)
    sessions = [access.log_in(TOKEN) for _ in range(100)]
    assert len(access._sessions) == 64
    assert access.is_known(f"c={sessions[-1]}", "c", None) and not access.is_known(f"c={sessions[0]}", "c", None)


def test_a_token_comes_from_a_file_that_only_its_owner_reads(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="make one with"):
        read_token(file)
    for short in ("", "fifteen letters", "tab\tin the middle of it", "nicht ganz ASCII: ä"):
        file.write_text(short)
        with pytest.raises(ConfigError, match="at least 16"):
            read_token(file)
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    file.chmod(0o644)
    assert is_open_to_others(file)
    file.chmod(0o600)
    assert not is_open_to_others(file)
