# SPDX-License-Identifier: Apache-2.0
"""The operator page's server over HTTP, in front of a robot that only writes down what it is asked."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from types import SimpleNamespace

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.ros.console.access import Access
from vla_ros.ros.console.pictures import Shown
from vla_ros.ros.console.server import ConsoleServer

TOKEN = "correct horse battery staple"


class Robot:
    """Behind the server's seam. While ``hangs`` is set, everything but a stop waits."""

    def __init__(self):
        self.asked, self.hangs, self.waiting = [], threading.Event(), threading.Semaphore(0)
        self.answer = SimpleNamespace(ok=True, message="done")
        self.released = threading.Event()

    def _note(self, *asked):
        self.asked.append(asked)
        if self.hangs.is_set():
            self.waiting.release()
            self.released.wait(10.0)
        return self.answer

    def state(self):
        return {"status": {"code": "IDLE"}}

    def pictures(self, after, timeout_s):
        self._note("pictures", dict(after))
        return {"front": Shown(number=3, age_s=0.5, jpeg=b"\xff\xd8\xff")}

    def instruct(self, text):
        return self._note("instruct", text)

    def resume(self):
        return self._note("resume")

    def stop(self):
        self.asked.append(("stop",))
        return self.answer


class Client:
    def __init__(self, server, **headers):
        self.server, self.headers = server, headers

    def __call__(self, method, path, body=None, **headers):
        host = f"127.0.0.1:{self.server.port}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10.0)
        try:
            given = {"Host": host, "Origin": f"http://{host}", **self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
            connection.request(method, path, body, {k: v for k, v in given.items() if v is not None})
            answer = connection.getresponse()
            return SimpleNamespace(status=answer.status, headers=answer.headers, body=answer.read())
        finally:
            connection.close()


def serve(token=None):
    server = ConsoleServer("127.0.0.1", 0, Access("127.0.0.1", token))
    server.robot = Robot()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture
def server():
    server = serve()
    yield server
    server.robot.released.set()
    server.close()


@pytest.fixture
def guarded():
    server = serve(TOKEN)
    yield server
    server.close()


@pytest.fixture
def ask(server):
    return Client(server)


def test_the_page_loads_nothing_from_elsewhere_and_nobody_may_frame_it(ask):
    for path, kind in (
        ("/", "text/html"),
        ("/console.js", "text/javascript"),
        ("/console.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ):
        answer = ask("GET", path)
        assert answer.status == 200 and answer.headers["Content-Type"].startswith(kind) and answer.headers["Cache-Control"] == "no-store"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text.replace("=== 'https:'", "") and "//cdn" not in text


@pytest.mark.parametrize("path", ["/nothing", "/../setup.py", "/%2e%2e/setup.py", "/server.py", "/page/index.html"])
def test_there_is_nothing_but_the_page(ask, path):
    assert ask("GET", path).status == 404 and ask("POST", path).status == 404


def test_what_a_person_asks_reaches_the_robot(server, ask):
    assert json.loads(ask("POST", "/instruction", json.dumps({"text": "räum auf"})).body) == {"ok": True, "message": "done"}
    ask("POST", "/stop")
    ask("POST", "/resume")
    assert server.robot.asked == [("instruct", "räum auf"), ("stop",), ("resume",)]


def test_a_refusal_is_told_in_the_robots_words(server, ask):
    server.robot.answer = SimpleNamespace(ok=False, message="pressed elsewhere")
    answer = ask("POST", "/resume")
    assert answer.status == 409 and json.loads(answer.body) == {"ok": False, "message": "pressed elsewhere"}


@pytest.mark.parametrize("body", ["", "text", "[]", "{}", '{"text": 7}', b"\xff"])
def test_a_body_that_is_no_instruction_is_refused(server, ask, body):
    assert ask("POST", "/instruction", body).status == 400 and server.robot.asked == []


def test_long_bodies_are_not_read(server, ask):
    assert ask("POST", "/instruction", b"x" * 10_000).status == 413
    assert ask("POST", "/instruction", None, Content_Length="-1").status == 413
    assert ask("POST", "/instruction", None, Transfer_Encoding="chunked").status == 413
    assert server.robot.asked == []


@pytest.mark.parametrize("path", ["/stop", "/resume", "/instruction"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_another_site_cannot_move_the_robot(server, ask, path, origin):
    assert ask("POST", path, '{"text": "go"}', Origin=origin).status == 403
    assert server.robot.asked == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/events"), ("POST", "/stop")])
def test_a_rebound_name_is_not_answered(server, ask, method, path):
    answer = ask(method, path, Host="evil.example:8710", Origin="http://evil.example:8710")
    assert answer.status == 421 and server.robot.asked == [] and b"evil" not in answer.body


def test_another_site_cannot_look(server, ask):
    assert ask("GET", "/pictures", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200  # a link is harmless


def test_pictures_come_with_number_and_age(server, ask):
    answer = json.loads(ask("GET", "/pictures?front=2&wrist=x").body)
    assert answer == {"front": {"number": 3, "age_s": 0.5, "jpeg": "/9j/"}}
    assert server.robot.asked == [("pictures", {"front": 2})]


def test_events_tell_the_state_again_and_again(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10.0) as connection:
        connection.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        stream = connection.makefile("rb")
        lines = [stream.readline() for _ in range(30)]
    assert sum(line == b'data: {"status":{"code":"IDLE"}}\n' for line in lines) >= 2


class StopLine:
    def __init__(self, server, origin=None, key="dGhlIHNhbXBsZSBub25jZQ=="):
        host = f"127.0.0.1:{server.port}"
        self.connection = socket.create_connection(("127.0.0.1", server.port), timeout=10.0)
        headers = {"Host": host, "Origin": origin or f"http://{host}", "Upgrade": "websocket", "Connection": "Upgrade"}
        headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
        self.connection.sendall(("GET /stop-channel HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode())
        self.stream = self.connection.makefile("rb")
        self.status = int(self.stream.readline().split()[1])
        while self.stream.readline().strip():
            pass

    def say(self, word):
        self.connection.sendall(bytes([0x81, 0x80 | len(word), 0, 0, 0, 0]) + word)
        head = self.stream.read(2)
        return self.stream.read(head[1])


def test_the_stop_line_stops_while_every_other_request_hangs(server, ask):
    line = StopLine(server)
    assert line.status == 101 and line.say(b"here?") == b"here" and server.robot.asked == []
    server.robot.hangs.set()
    hanging = [threading.Thread(target=ask, args=("GET", "/pictures"), daemon=True) for _ in range(30)]
    for thread in hanging:
        thread.start()
    assert all(server.robot.waiting.acquire(timeout=10.0) for _ in hanging)
    assert line.say(b"stop") == b"stopped" and server.robot.asked[-1] == ("stop",)
    assert ask("POST", "/stop").status == 200  # and so does the plain request
    server.robot.released.set()
    for thread in hanging:
        thread.join(10.0)


def test_the_stop_line_says_when_nobody_heard(server):
    server.robot.answer = SimpleNamespace(ok=False, message="")
    assert StopLine(server).say(b"stop") == b"unheard"


def test_another_site_gets_no_stop_line(server):
    assert StopLine(server, origin="http://evil.example").status == 403
    assert StopLine(server, key="x").status == 426


def test_one_address_cannot_take_all_connections(server):
    taken = [socket.create_connection(("127.0.0.1", server.port), timeout=10.0) for _ in range(64)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10.0) as extra:
        extra.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            assert extra.recv(1) == b""
        except ConnectionResetError:
            pass
    for connection in taken:
        connection.close()


def test_a_taken_port_is_said_with_the_remedy(server):
    with pytest.raises(ConfigError, match=f"port {server.port} of 127.0.0.1 is taken.*--port"):
        ConsoleServer("127.0.0.1", server.port, Access("127.0.0.1", None))
    with pytest.raises(ConfigError, match="address of this machine"):
        ConsoleServer("192.0.2.1", 0, Access("192.0.2.1", TOKEN))


# ---- with a token ----


@pytest.mark.parametrize("path", ["/events", "/pictures", "/console.js", "/stop-channel"])
def test_without_the_token_there_is_nothing_to_see(guarded, path):
    assert Client(guarded)("GET", path).status == 401


@pytest.mark.parametrize("path", ["/stop", "/resume", "/instruction"])
def test_without_the_token_there_is_nothing_to_do(guarded, path):
    assert Client(guarded)("POST", path, '{"text": "go"}').status == 401
    assert Client(guarded)("POST", path, '{"text": "go"}', Authorization="Bearer wrong", Origin=None).status == 401
    assert guarded.robot.asked == []


def test_the_token_opens_a_session(guarded):
    ask = Client(guarded)
    form = ask("GET", "/")
    assert form.status == 401 and b"<form" in form.body and b"Robot console" in form.body
    wrong = ask("POST", "/login", "token=wrong")
    assert wrong.status == 401 and b"not the token" in wrong.body and "Set-Cookie" not in wrong.headers
    assert ask("POST", "/login", f"token={TOKEN.replace(' ', '+')}", Origin="http://evil.example").status == 403
    right = ask("POST", "/login", f"token={TOKEN.replace(' ', '+')}")
    assert right.status == 303 and right.headers["Location"] == "/"
    cookie = right.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    inside = Client(guarded, Cookie=cookie.partition(";")[0])
    assert inside("GET", "/").status == 200 and inside("POST", "/stop").status == 200
    assert inside("POST", "/stop", Origin="http://evil.example").status == 403
    assert guarded.robot.asked == [("stop",)]


def test_programs_send_the_token_and_no_origin(guarded):
    ask = Client(guarded, Authorization=f"Bearer {TOKEN}", Origin=None)
    assert ask("POST", "/stop").status == 200 and ask("GET", "/pictures").status == 200
