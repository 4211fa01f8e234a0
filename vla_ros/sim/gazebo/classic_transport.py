# SPDX-License-Identifier: Apache-2.0
"""Gazebo Classic's own topics over TCP (gazebo/transport of Gazebo 11): subscribe, advertise, publish.

A frame is eight hexadecimal digits of length, then the body. Traffic with the master, and the first frame that a subscriber sends to a
publisher, are ``Packet``; what follows on that connection are bare messages. Callbacks run in a thread of their connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from vla_ros.core.errors import VlaError
from vla_ros.sim.gazebo.messages import classic

_HEADER = 8
_HOST = "127.0.0.1"
_GREETING = ("version_init", "topic_namepaces_init", "publishers_init")  # the second one's spelling is Gazebo's


class GazeboError(VlaError):
    """Gazebo does not answer, or not as expected."""


def send_frame(stream: socket.socket, body: bytes) -> None:
    """Sends one frame."""
    stream.sendall(f"{len(body):08X}".encode() + body)


def receive_frame(stream: socket.socket) -> bytes:
    """Waits for one frame.

    Raises:
        ConnectionError: the peer has gone.
    """
    return _receive(stream, int(_receive(stream, _HEADER), 16))


def _receive(stream: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise ConnectionError("Gazebo closed the connection")
        data += part
    return bytes(data)


def _packet(kind: str, message: Any) -> bytes:
    now = time.time_ns()
    stamp = classic.Time(sec=now // 10**9, nsec=now % 10**9)
    return classic.Packet(stamp=stamp, type=kind, serialized_data=message.SerializeToString()).SerializeToString()


class ClassicConnection:
    """This process as a client of one ``gzserver``. Use as a context manager, or call ``close``.

    Args:
        port: of the server's master.
        world: name of the world, part of every topic.

    Raises:
        GazeboError: nothing listens there, or something that is no Gazebo Classic.
    """

    def __init__(self, port: int, world: str) -> None:
        self._prefix = f"/gazebo/{world}/"
        self._open: list[socket.socket] = []
        self._subscribed: dict[str, tuple[str, Any, Callable[[Any], None]]] = {}
        self._publishers: dict[str, Publisher] = {}
        self._connected: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()
        try:
            self._master = self._keep(socket.create_connection((_HOST, port), timeout=5.0))
            for expected in _GREETING:
                kind = classic.Packet.FromString(receive_frame(self._master)).type
                if kind != expected:
                    raise GazeboError(f"port {port} greets with {kind!r} in place of {expected!r}: is it a Gazebo Classic 11 server?")
        except (OSError, ValueError) as error:
            self.close()
            raise GazeboError(
                f"no Gazebo Classic server on port {port} ({error}): start gzserver with GAZEBO_MASTER_URI=http://{_HOST}:{port}"
            ) from error
        self._master.settimeout(None)
        self._listener = self._keep(socket.create_server((_HOST, 0)))
        self._own = {"host": _HOST, "port": self._listener.getsockname()[1]}
        for target in (self._listen_to_master, self._accept):
            threading.Thread(target=target, name="vla_gazebo", daemon=True).start()

    def topic(self, name: str) -> str:
        """Full name of a topic: ``pose/info`` becomes ``/gazebo/WORLD/pose/info``."""
        return self._prefix + name

    def subscribe(self, name: str, kind: str, callback: Callable[[Any], None], latching: bool = False) -> None:
        """Calls ``callback`` with every message (class ``kind``) of a topic, from all present and future publishers."""
        topic, message_type = self.topic(name), f"gazebo.msgs.{kind}"
        self._subscribed[topic] = (message_type, getattr(classic, kind), callback)
        self._send("subscribe", classic.Subscribe(topic=topic, msg_type=message_type, latching=latching, **self._own))

    def advertise(self, name: str, kind: str, timeout_s: float = 60.0) -> Publisher:
        """Offers a topic and waits until Gazebo has connected to it.

        Raises:
            GazeboError: it has not in ``timeout_s``.
        """
        topic = self.topic(name)
        publisher = self._publishers[topic] = Publisher(topic)
        self._send("advertise", classic.Publish(topic=topic, msg_type=f"gazebo.msgs.{kind}", **self._own))
        if not publisher.connected.wait(timeout_s):
            raise GazeboError(f"Gazebo does not listen to {topic}: it has no such world, or hangs")
        return publisher

    def close(self) -> None:
        """Ends all connections and with them the threads."""
        with self._lock:
            streams, self._open = self._open, []
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

    def __enter__(self) -> ClassicConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ----

    def _keep(self, stream: socket.socket) -> socket.socket:
        with self._lock:
            self._open.append(stream)
        return stream

    def _send(self, kind: str, message: Any) -> None:
        with self._lock:
            send_frame(self._master, _packet(kind, message))

    def _listen_to_master(self) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            while True:
                packet = classic.Packet.FromString(receive_frame(self._master))
                if packet.type in ("publisher_subscribe", "publisher_advertise", "publisher_add"):
                    self._connect(classic.Publish.FromString(packet.serialized_data))

    def _connect(self, publication: Any) -> None:
        """Connects to a publisher of a topic that is subscribed here, once."""
        key = (publication.topic, publication.host, publication.port)
        if publication.topic not in self._subscribed or key in self._connected or publication.port == self._own["port"]:
            return
        self._connected.add(key)
        message_type, _, _ = self._subscribed[publication.topic]
        stream = self._keep(socket.create_connection((publication.host, publication.port), timeout=5.0))
        stream.settimeout(None)
        send_frame(stream, _packet("sub", classic.Subscribe(topic=publication.topic, msg_type=message_type, **self._own)))
        threading.Thread(target=self._read, args=(stream, publication.topic, key), name="vla_gazebo", daemon=True).start()

    def _read(self, stream: socket.socket, topic: str, key: tuple[str, str, int]) -> None:
        _, message, callback = self._subscribed[topic]
        with contextlib.suppress(OSError, ConnectionError):
            while True:
                callback(message.FromString(receive_frame(stream)))
        self._connected.discard(key)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream = self._keep(self._listener.accept()[0])
                threading.Thread(target=self._greet, args=(stream,), name="vla_gazebo", daemon=True).start()

    def _greet(self, stream: socket.socket) -> None:
        """Takes the request of a server that subscribes to one of our topics."""
        with contextlib.suppress(OSError, ConnectionError):
            packet = classic.Packet.FromString(receive_frame(stream))
            if packet.type == "sub":
                topic = classic.Subscribe.FromString(packet.serialized_data).topic
                if topic in self._publishers:
                    self._publishers[topic].add(stream)


class Publisher:
    """One topic of ours."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.connected = threading.Event()
        self._streams: list[socket.socket] = []

    def add(self, stream: socket.socket) -> None:
        """A subscriber has connected."""
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams.append(stream)
        self.connected.set()

    def publish(self, message: Any) -> None:
        """Sends to all subscribers.

        Raises:
            GazeboError: the connection has broken.
        """
        body = message.SerializeToString()
        for stream in self._streams:
            try:
                send_frame(stream, body)
            except OSError as error:
                raise GazeboError(f"Gazebo no longer listens to {self.topic} ({error}): it has ended") from error
