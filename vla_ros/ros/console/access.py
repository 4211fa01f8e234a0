# SPDX-License-Identifier: Apache-2.0
"""Who may use the operator page: host names, origins, token and sessions. Must not import rclpy.

A robot must not move because somebody opened a web site. A foreign site reaches a page on this machine in two ways: its scripts send
requests across origins (then ``Origin`` names it), or its name is pointed at this machine (DNS rebinding: then ``Host`` names it).
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from vla_ros.core.errors import ConfigError

MIN_TOKEN_LENGTH = 16
SESSION_S = 12 * 3600
_MAX_SESSIONS = 64
_WRONG_TOKEN_S = 0.5  # what a wrong token costs; one at a time


class Access:
    """Decides about requests. Any thread.

    Args:
        host: what the server is bound to.
        token: what a person must know; None only on a loopback address.
        now_s: monotonic clock.

    Raises:
        ConfigError: the page would be open to the network without a token.
    """

    def __init__(self, host: str, token: str | None, now_s: Callable[[], float] = time.monotonic) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(
                f"--host {host} opens the page to the network, and whoever opens it can move the robot: add --token-file FILE, "
                "or leave --host out and come through ssh -L"
            )
        self._token = None if token is None else token.encode()
        own = (socket.gethostname(), socket.getfqdn()) if token is not None else ()
        self._names = {"localhost", host.lower(), *(name.lower() for name in own), *(f"{name.lower()}.local" for name in own[:1])}
        self._now_s = now_s
        self._sessions: dict[str, float] = {}
        self._lock, self._one_guess = threading.Lock(), threading.Lock()

    @property
    def needs_token(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def is_own_host(self, host: str | None) -> bool:
        """Whether the ``Host`` header names this machine by a name that nobody else can point at it.

        The port may be another one (ssh -L). Addresses are accepted where a token is set: rebinding needs a name.
        """
        name = _host_name(host)
        if name is None:
            return False
        return name in self._names or is_loopback(name) or (self.needs_token and _is_address(name))

    def is_own_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether the ``Origin`` header names the page that the ``Host`` header names."""
        if not origin or not host:
            return False
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.strip().lower() and parts.path == ""

    def log_in(self, token: str) -> str | None:
        """A new session's id for the right token; None, after a moment, for a wrong one."""
        if not self.is_token(token):
            with self._one_guess:
                time.sleep(_WRONG_TOKEN_S)
            return None
        session, now_s = secrets.token_urlsafe(32), self._now_s()
        with self._lock:
            fresh = {key: born_s for key, born_s in self._sessions.items() if now_s - born_s < SESSION_S}
            self._sessions = dict(list(fresh.items())[1 - _MAX_SESSIONS :])
            self._sessions[session] = now_s
        return session

    def is_token(self, token: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and hmac.compare_digest(token.strip().encode(), self._token)

    def is_known(self, cookie: str | None, cookie_name: str, authorization: str | None) -> bool:
        """Whether a request comes from somebody who knows the token, by its session's cookie or by ``Authorization: Bearer TOKEN``."""
        if not self.needs_token:
            return True
        if authorization is not None:
            kind, _, token = authorization.partition(" ")
            return kind.lower() == "bearer" and self.is_token(token)
        try:
            found = SimpleCookie(cookie or "").get(cookie_name)
        except CookieError:
            return False
        return found is not None and self._is_session(found.value)

    def _is_session(self, session: str) -> bool:
        with self._lock:
            matches = [born_s for key, born_s in self._sessions.items() if hmac.compare_digest(key.encode(), session.encode())]
        return bool(matches) and self._now_s() - matches[0] < SESSION_S


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: there is no such file, or what it holds is too short to be a secret.
    """
    make = f"make one with: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path})"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read ({error}): {make}") from error
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise ConfigError(f"--token-file {path} must hold one line of at least {MIN_TOKEN_LENGTH} ASCII characters: {make}")
    return token


def is_open_to_others(path: Path) -> bool:
    """Whether other users of this machine may read the file."""
    return bool(path.stat().st_mode & 0o044)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(host: str | None) -> str | None:
    try:
        parts = urlsplit(f"//{host or ''}")
        return parts.hostname if parts.netloc == (host or "") and parts.username is None else None
    except ValueError:
        return None
