# SPDX-License-Identifier: Apache-2.0
"""Gazebo's newer topics (gz-transport, formerly ignition-transport): discovery over UDP multicast, data over ZeroMQ.

Gazebo Classic 11 takes joint commands this way, Gazebo Sim everything. On the wire: a discovery datagram is a little-endian uint16 length
and a ``Discovery`` of version 10; a data message has the four parts topic, sender's address, data and type name; a topic is
``@/PARTITION@/NAME``. Only this machine's processes are met: everything is bound to the loopback interface.

Needs pyzmq (extra ``gazebo``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from vla_ros.core.errors import ConfigError
from vla_ros.sim.gazebo.classic_transport import GazeboError
from vla_ros.sim.gazebo.messages import sim

PORT = 10317
IGNITION_GROUP, GZ_GROUP = "224.0.0.7", "239.255.0.7"
_VERSION = 10
_ADVERTISE, _SUBSCRIBE, _HEARTBEAT, _BYE, _NEW_CONNECTION = 1, 2, 4, 5, 6
_SCOPE_ALL = 2
_PERIOD_S = 0.5
_HOST = "127.0.0.1"


class GzNode:
    """One process's publishers and subscriptions. Use as a context manager, or call ``close``.

    ``publish`` may be called from one thread at a time; callbacks run in one thread of the node.

    Args:
        partition: name space that both sides must share (GZ_PARTITION, IGN_PARTITION); by default the machine's and user's as in Gazebo.
        group: multicast group of discovery.
        package: of the message types, ``gz.msgs`` or ``ignition.msgs``.

    Raises:
        ConfigError: the discovery port cannot be used.
    """

    def __init__(self, partition: str, group: str = GZ_GROUP, package: str = "gz.msgs") -> None:
        import zmq  # not at the top: this room is also imported where only MuJoCo is used

        self._zmq = zmq
        self._partition, self._group, self._package = partition, group, package
        self._process, self._node = str(uuid.uuid4()), str(uuid.uuid4())
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.XPUB)
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._address = f"tcp://{_HOST}:{self._publisher.bind_to_random_port(f'tcp://{_HOST}')}"
        self._subscriber = self._context.socket(zmq.SUB)
        self._advertised: dict[str, str] = {}
        self._listened: set[str] = set()
        self._callbacks: dict[str, tuple[Any, Callable[[Any], None]]] = {}
        self._found: dict[str, set[str]] = {}
        self._to_connect: list[str] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        try:
            self._udp = _multicast_socket(group)
        except OSError as error:
            self._context.destroy(linger=0)
            raise ConfigError(f"UDP port {PORT} cannot be used for Gazebo's discovery ({error})") from error
        self._threads = [threading.Thread(target=target, name="vla_gz", daemon=True) for target in (self._hear, self._tell, self._receive)]
        for thread in self._threads:
            thread.start()

    def advertise(self, topic: str, kind: str, timeout_s: float = 60.0) -> None:
        """Offers a topic and waits until somebody listens to it.

        Raises:
            GazeboError: nobody does in ``timeout_s``.
        """
        self.offer(topic, kind)
        deadline = time.monotonic() + timeout_s
        while not self.is_listened_to(topic):
            if time.monotonic() > deadline:
                raise GazeboError(f"nobody listens to {topic} in partition '{self._partition}': is that Gazebo running, with this model?")
            time.sleep(0.01)

    def offer(self, topic: str, kind: str) -> None:
        """Offers a topic without waiting for a listener."""
        self._advertised[self._full(topic)] = f"{self._package}.{kind}"
        self._announce(self._full(topic))

    def is_listened_to(self, topic: str) -> bool:
        """Whether somebody has subscribed to a topic of ours."""
        with contextlib.suppress(self._zmq.Again):
            while True:
                frame = self._publisher.recv(self._zmq.NOBLOCK)
                change = self._listened.add if frame[:1] == b"\x01" else self._listened.discard
                change(frame[1:].decode())
        return self._full(topic) in self._listened

    def publish(self, topic: str, message: Any) -> None:
        """Sends to whoever listens; never waits."""
        full = self._full(topic)
        parts = (full, self._address, message.SerializeToString(), self._advertised[full])
        self._publisher.send_multipart([p if isinstance(p, bytes) else p.encode() for p in parts])

    def subscribe(self, topic: str, kind: str, callback: Callable[[Any], None]) -> None:
        """Calls ``callback`` with every message (class ``kind``) of a topic."""
        full = self._full(topic)
        with self._lock:
            self._callbacks[full] = (getattr(sim, kind), callback)
        self._send(sim.new("Discovery", type=_SUBSCRIBE, sub=sim.new("Discovery.Subscriber", topic=full)))

    def has_publisher(self, topic: str) -> bool:
        """Whether a subscribed topic has been found."""
        return bool(self._found.get(self._full(topic)))

    def close(self) -> None:
        """Says goodbye and ends the threads."""
        if self._closing.is_set():
            return
        with contextlib.suppress(OSError):
            self._send(sim.new("Discovery", type=_BYE))
        self._closing.set()
        for thread in self._threads:
            thread.join(2.0)
        self._udp.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> GzNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- discovery ----

    def _full(self, topic: str) -> str:
        return f"@/{self._partition}@{topic}"

    def _send(self, message: Any) -> None:
        message.version, message.process_uuid = _VERSION, self._process
        body = message.SerializeToString()
        self._udp.sendto(struct.pack("<H", len(body)) + body, (self._group, PORT))

    def _announce(self, full: str) -> None:
        details = sim.new("Discovery.MessagePublisher", ctrl=self._process, msg_type=self._advertised[full])
        publisher = sim.new(
            "Discovery.Publisher",
            topic=full,
            address=self._address,
            process_uuid=self._process,
            node_uuid=self._node,
            scope=_SCOPE_ALL,
            msg_pub=details,
        )
        self._send(sim.new("Discovery", type=_ADVERTISE, pub=publisher))

    def _tell(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            with contextlib.suppress(OSError):
                self._send(sim.new("Discovery", type=_HEARTBEAT))
                for full in list(self._advertised):
                    self._announce(full)
                for full in list(self._callbacks):
                    if not self._found.get(full):
                        self._send(sim.new("Discovery", type=_SUBSCRIBE, sub=sim.new("Discovery.Subscriber", topic=full)))

    def _hear(self) -> None:
        while not self._closing.is_set():
            try:
                datagram = self._udp.recv(65536)
                message = sim.Discovery.FromString(datagram[2 : 2 + struct.unpack("<H", datagram[:2])[0]])
            except TimeoutError:
                continue
            except Exception:  # somebody else's datagram
                continue
            if message.process_uuid == self._process or message.version != _VERSION:
                continue
            if message.type == _SUBSCRIBE and message.sub.topic in self._advertised:
                self._announce(message.sub.topic)
            elif message.type == _ADVERTISE:
                self._discovered(message.pub)

    def _discovered(self, publisher: Any) -> None:
        found = self._found.setdefault(publisher.topic, set())
        with self._lock:
            if publisher.topic not in self._callbacks or publisher.address in found:
                return
            found.add(publisher.address)
            self._to_connect.append((publisher.topic, publisher.address))
        details = sim.new("Discovery.MessagePublisher", ctrl=publisher.process_uuid, msg_type="google.protobuf.Message")
        connection = sim.new(
            "Discovery.Publisher",
            topic=publisher.topic,
            address=self._address,
            process_uuid=self._process,
            node_uuid=self._node,
            scope=_SCOPE_ALL,
            msg_pub=details,
        )
        self._send(sim.new("Discovery", type=_NEW_CONNECTION, pub=connection))

    # ---- data ----

    def _receive(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                waiting, self._to_connect = self._to_connect, []
            for topic, address in waiting:
                self._subscriber.setsockopt(self._zmq.SUBSCRIBE, topic.encode())
                self._subscriber.connect(address)
            if not self._subscriber.poll(20):
                continue
            topic, _, data, *_ = self._subscriber.recv_multipart()
            message, callback = self._callbacks.get(topic.decode(), (None, None))
            if message is not None:
                callback(message.FromString(data))


def default_partition() -> str:
    """The partition that Gazebo uses unless told: ``GZ_PARTITION``, ``IGN_PARTITION``, or host and user."""
    given = os.environ.get("GZ_PARTITION") or os.environ.get("IGN_PARTITION")
    return given or f"{socket.gethostname()}:{os.environ.get('USER') or os.environ.get('LOGNAME') or 'root'}"


def _multicast_socket(group: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_HOST))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    udp.bind(("", PORT))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(_HOST))
    udp.settimeout(0.2)
    return udp
