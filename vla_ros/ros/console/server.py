# SPDX-License-Identifier: Apache-2.0
"""The operator page's HTTP server: one thread a connection, so that no request waits for another. Must not import rclpy.

| request | answer |
|---|---|
| ``GET /`` | the page, or the form that asks for the token |
| ``GET /events`` | server-sent events: the state as JSON, ten times a second |
| ``GET /pictures?front=12`` | JSON: each camera's newest picture, if its number is another one; waits half a second for one |
| ``GET /stop-channel`` | WebSocket: ``stop`` stops, every other word is answered with ``here`` |
| ``POST /stop``, ``/resume`` | ``{"ok": bool, "message": str}`` |
| ``POST /instruction`` | the same; the body is ``{"text": str}`` |
| ``POST /login`` | a session for the right token |
"""

from __future__ import annotations

import base64
import errno
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from vla_ros.core.errors import ConfigError
from vla_ros.ros.console import web_socket
from vla_ros.ros.console.access import SESSION_S, Access

EVENT_PERIOD_S = 0.1
_PICTURE_WAIT_S = 0.5
_IDLE_S = 15.0  # after so long without a word a connection is closed
_MAX_BODY = 8192
_MAX_CONNECTIONS = 64  # of one address: a page needs three
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PUBLIC = ("console.css", "icon.svg")


class Robot(Protocol):
    """What the page asks for; any thread calls."""

    def state(self) -> dict[str, Any]:
        """Everything but pictures, ready for JSON."""

    def pictures(self, after: Mapping[str, int], timeout_s: float) -> Mapping[str, Any]:
        """New pictures by camera, each with ``number``, ``age_s`` and ``jpeg``."""

    def instruct(self, text: str) -> Any:
        """Gives an instruction; the answer has ``ok`` and ``message``."""

    def stop(self) -> Any:
        """Stops; must not wait."""

    def resume(self) -> Any:
        """Ends a stop."""


class ConsoleServer(ThreadingHTTPServer):
    """Listens from the beginning; serves once ``serve_forever`` runs.

    Raises:
        ConfigError: the address cannot be had.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, access: Access) -> None:
        self.access = access
        self.robot: Robot | None = None
        self.closing = threading.Event()
        self.pages = {path.name: path.read_bytes() for path in files(__package__).joinpath("page").iterdir()}
        self._connections: Counter[str] = Counter()
        self._lock = threading.Lock()
        bare = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        try:
            super().__init__((bare, port), _Handler)
        except OSError as error:
            raise ConfigError(_why_not(host, port, error)) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_address[1]

    @property
    def cookie_name(self) -> str:
        """Cookies do not tell ports apart: two consoles on one machine need two names."""
        return f"vla_console_{self.port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, and not too many for one address."""
        with self._lock:
            self._connections[client_address[0]] += 1
            too_many = self._connections[client_address[0]] > _MAX_CONNECTIONS
        if too_many:
            self._forget(client_address)
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(client_address)

    def _forget(self, client_address: Any) -> None:
        with self._lock:
            self._connections[client_address[0]] -= 1
            self._connections += Counter()  # without those that are zero

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error of ours."""

    def close(self) -> None:
        """Ends ``serve_forever`` and the streams."""
        self.closing.set()
        self.shutdown()
        self.server_close()


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken, perhaps by another vla console: end that one, or choose a port with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is for root only: choose one above 1023 with --port"
    return f"cannot listen on {host} port {port} ({error.strerror or error}): --host must be an address of this machine"


class _Handler(BaseHTTPRequestHandler):
    """One connection. Its server has the robot and the rules of access."""

    server: ConsoleServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vla_console", ""
    timeout = _IDLE_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve({"/events": self._events, "/pictures": self._pictures, "/stop-channel": self._stop_channel}, self._page)

    def do_POST(self) -> None:
        routes = {"/stop": self._stop, "/resume": self._resume, "/instruction": self._instruction, "/login": self._log_in}
        self._serve(routes, lambda: self._refuse(HTTPStatus.NOT_FOUND, "there is no such page"))

    def _serve(self, routes: dict[str, Callable[[], None]], otherwise: Callable[[], None]) -> None:
        access, headers = self.server.access, self.headers
        path = urlsplit(self.path).path
        self._path = path
        self._body = self._read_body()
        changes = self.command == "POST" or path == "/stop-channel"
        has_token = headers.get("Authorization") is not None and access.needs_token
        if self._body is None:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has a Content-Length of at most {_MAX_BODY}")
        elif not access.is_own_host(headers.get("Host")):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this page does not answer to that host name: use localhost or the address")
        elif changes and not has_token and not access.is_own_origin(headers.get("Origin"), headers.get("Host")):
            self._refuse(HTTPStatus.FORBIDDEN, "requests that change something must come from this page (header Origin)")
        elif headers.get("Sec-Fetch-Site") == "cross-site" and headers.get("Sec-Fetch-Mode") != "navigate":
            self._refuse(HTTPStatus.FORBIDDEN, "other sites may not read this page")
        elif path != "/login" and path.lstrip("/") not in _PUBLIC and not self._is_known():
            self._ask_for_token()
        else:
            routes.get(path, otherwise)()

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True  # what follows cannot be told from the next request
            return None
        return self.rfile.read(int(length))

    def _is_known(self) -> bool:
        headers = self.headers
        return self.server.access.is_known(headers.get("Cookie"), self.server.cookie_name, headers.get("Authorization"))

    # ---- what is shown ----

    def _page(self) -> None:
        name = self._path.lstrip("/") or "index.html"
        if name not in self.server.pages:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._send(HTTPStatus.OK, self.server.pages[name], _TYPES[name.rpartition(".")[2]])

    def _ask_for_token(self, note: str = "") -> None:
        if self._path in ("/", "/login"):
            page = self.server.pages["login.html"].replace(b"<!--note-->", note.encode())
            self._send(HTTPStatus.UNAUTHORIZED, page, "text/html")
        else:
            self._refuse(HTTPStatus.UNAUTHORIZED, "the token is missing: open the page and log in, or send Authorization: Bearer TOKEN")

    def _events(self) -> None:
        self._begin("text/event-stream", close=True)
        while not self.server.closing.wait(EVENT_PERIOD_S):
            self.wfile.write(b"data: " + _json(self.server.robot.state()) + b"\n\n")

    def _pictures(self) -> None:
        asked = {name: int(values[-1]) for name, values in parse_qs(urlsplit(self.path).query).items() if values[-1].isdecimal()}
        shown = self.server.robot.pictures(asked, _PICTURE_WAIT_S)
        self._send_json(
            {
                name: {"number": picture.number, "age_s": round(picture.age_s, 3), "jpeg": base64.b64encode(picture.jpeg).decode()}
                for name, picture in shown.items()
            }
        )

    # ---- what is done ----

    def _stop(self) -> None:
        self._send_answer(self.server.robot.stop())

    def _resume(self) -> None:
        self._send_answer(self.server.robot.resume())

    def _instruction(self) -> None:
        try:
            text = json.loads(self._body)["text"]
            if not isinstance(text, str):
                raise TypeError("text must be a string")
        except (ValueError, KeyError, TypeError):
            self._refuse(HTTPStatus.BAD_REQUEST, 'the body must be JSON: {"text": "..."}')
            return
        self._send_answer(self.server.robot.instruct(text))

    def _stop_channel(self) -> None:
        key = web_socket.accept_key(self.headers)
        if key is None:
            self._refuse(HTTPStatus.UPGRADE_REQUIRED, "this address speaks WebSocket, version 13")
            return
        self.send_response(HTTPStatus.SWITCHING_PROTOCOLS)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", key)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while (word := web_socket.read_word(self.rfile, self.wfile)) is not None:
            answer = "here"
            if word == "stop":
                answer = "stopped" if self.server.robot.stop().ok else "unheard"
            web_socket.send_word(self.wfile, answer)
        web_socket.send_close(self.wfile)

    def _log_in(self) -> None:
        form = parse_qs(self._body.decode("utf-8", errors="replace"))
        session = self.server.access.log_in(form.get("token", [""])[-1])
        if session is None:
            self._ask_for_token("That is not the token.")
            return
        cookie = f"{self.server.cookie_name}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={SESSION_S}"
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})

    # ---- answers ----

    def _send_answer(self, answer: Any) -> None:
        self._send_json({"ok": answer.ok, "message": answer.message}, HTTPStatus.OK if answer.ok else HTTPStatus.CONFLICT)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send_json({"ok": False, "message": message}, status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, _json(value), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self._begin(kind, status, {"Content-Length": str(len(body)), **(more or {})})
        self.wfile.write(body)

    def _begin(self, kind: str, status: HTTPStatus = HTTPStatus.OK, more: Mapping[str, str] | None = None, close: bool = False) -> None:
        self.send_response(status)
        text = "; charset=utf-8" if kind != "image/svg+xml" else ""
        headers = {"Content-Type": kind + text, "Cache-Control": "no-store", **self._protection(), **(more or {})}
        if close or self.close_connection:
            self.close_connection = True
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _protection(self) -> dict[str, str]:
        host = self.headers.get("Host", "")
        own = f" ws://{host} wss://{host}" if self.server.access.is_own_host(host) else ""  # not every browser counts these as 'self'
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self'{own}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return {
            "Content-Security-Policy": policy,
            "X-Frame-Options": "DENY",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # no-referrer would make a form's Origin null
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not logged: there are a dozen a second."""


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
