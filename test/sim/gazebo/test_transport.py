# SPDX-License-Identifier: Apache-2.0
"""gz-transport over real sockets: discovery, data, and the client of Gazebo Sim against a process that publishes what Gazebo does."""

from __future__ import annotations

import socket
import threading
import time
import uuid

import numpy as np
import pytest

pytest.importorskip("zmq", reason="needs pyzmq (extra gazebo)")

from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.sim.gazebo.classic_transport import ClassicConnection, GazeboError, receive_frame, send_frame
from vla_ros.sim.gazebo.followed import FollowedTabletop
from vla_ros.sim.gazebo.gz_transport import GzNode
from vla_ros.sim.gazebo.messages import classic, sim
from vla_ros.sim.gazebo.plan import ScenePlan, object_name
from vla_ros.sim.gazebo.sim_world import CLOCK_TOPIC, POSE_TOPIC
from vla_ros.sim.gazebo.systems import JOINT_STATE_TOPIC, contact_topic, image_topic, position_topic
from vla_ros.sim.scene import CAMERA_SIZE

ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))


def until(condition, what, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def partition():
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
def pair(partition):
    with GzNode(partition) as one, GzNode(partition) as other:
        yield one, other


def test_a_subscriber_that_comes_first_and_one_that_comes_later_hear_all(pair):
    publisher, subscriber = pair
    got = {"early": [], "late": []}
    subscriber.subscribe("/early", "Double", lambda m: got["early"].append(m.data))
    publisher.advertise("/early", "Double")
    publisher.offer("/late", "Double")
    subscriber.subscribe("/late", "Double", lambda m: got["late"].append(m.data))
    until(lambda: publisher.is_listened_to("/late"), "the late subscriber is seen")
    for value in (1.0, 2.0, 3.0):
        publisher.publish("/early", sim.Double(data=value))
        publisher.publish("/late", sim.Double(data=-value))
    until(lambda: len(got["early"]) == len(got["late"]) == 3, f"all messages: {got}")
    assert got == {"early": [1.0, 2.0, 3.0], "late": [-1.0, -2.0, -3.0]}


def test_another_partition_hears_nothing(pair):
    publisher, _ = pair
    with GzNode("elsewhere_" + uuid.uuid4().hex) as stranger:
        stranger.subscribe("/x", "Double", lambda m: None)
        with pytest.raises(GazeboError, match="nobody listens to /x"):
            publisher.advertise("/x", "Double", timeout_s=1.5)


def test_foreign_datagrams_are_ignored(pair):
    publisher, subscriber = pair
    got = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray:
        stray.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for rubbish in (b"", b"\x01", b"\xff\xff" + b"rubbish" * 9):
            stray.sendto(rubbish, ("239.255.0.7", 10317))
    subscriber.subscribe("/x", "Double", lambda m: got.append(m.data))
    publisher.advertise("/x", "Double")
    publisher.publish("/x", sim.Double(data=4.0))
    until(lambda: got == [4.0], "the message after the rubbish")


def test_closing_ends_all_threads(partition):
    before = threading.active_count()
    with GzNode(partition) as node:
        node.subscribe("/x", "Double", lambda m: None)
        assert threading.active_count() == before + 3
    until(lambda: threading.active_count() == before, "threads end")


# ---- Gazebo Sim ----


class FakeSim:
    """Publishes what gz sim does with the exported world, and follows position commands at once."""

    def __init__(self, partition, plan):
        self._plan, self.now_ns = plan, 0
        self.positions = dict(zip(ROBOT.joint_names, ROBOT.home)) | {"right_finger_joint": ROBOT.home[-1]}
        self.touched = []
        self._node = GzNode(partition)
        topics = {CLOCK_TOPIC: "Clock", JOINT_STATE_TOPIC: "Model", POSE_TOPIC: "Pose_V", contact_topic("left_finger"): "Contacts"}
        topics |= {image_topic(camera): "Image" for camera in CAMERA_SIZE}
        for topic, kind in topics.items():
            self._node.offer(topic, kind)
        for joint in self.positions:
            self._node.subscribe(position_topic(joint), "Double", lambda m, j=joint: self.positions.__setitem__(j, m.data))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.005):
            self.now_ns += 10_000_000
            stamp = sim.Time(sec=self.now_ns // 10**9, nsec=self.now_ns % 10**9)
            header = sim.Header(stamp=stamp)
            self._node.publish(CLOCK_TOPIC, sim.Clock(sim=stamp))
            joints = [sim.Joint(name=n, axis1=sim.Axis(position=p)) for n, p in self.positions.items()]
            self._node.publish(JOINT_STATE_TOPIC, sim.Model(header=header, name="arm", joint=joints))
            self._node.publish(POSE_TOPIC, sim.Pose_V(header=header, pose=[self._pose(r, b) for r, b in self._plan.objects().items()]))
            for camera, (height, width) in CAMERA_SIZE.items():
                data = np.full((height, width, 3), self.now_ns // 10_000_000 % 256, np.uint8).tobytes()
                image = sim.Image(header=header, height=height, width=width, step=3 * width, data=data, pixel_format_type=3)
                self._node.publish(image_topic(camera), image)
            for name in self.touched:
                pair = {"collision1": "arm::left_finger_link::left_finger_collision", "collision2": f"{name}::link::part_0_collision"}
                contact = sim.Contact(**{k: sim.Entity(name=v) for k, v in pair.items()})
                self._node.publish(contact_topic("left_finger"), sim.Contacts(header=header, contact=[contact]))

    def _pose(self, ref, body):
        x, y, z = self._plan.data.xpos[body]
        w, qx, qy, qz = self._plan.data.xquat[body]
        orientation = sim.Quaternion(w=w, x=qx, y=qy, z=qz)
        return sim.Pose(name=object_name(ref), position=sim.Vector3d(x=x, y=y, z=z), orientation=orientation)

    def close(self):
        self._stop.set()
        self._thread.join()
        self._node.close()


@pytest.fixture
def running(partition, monkeypatch):
    monkeypatch.setenv("GZ_PARTITION", partition)
    plan = ScenePlan(randomize_look=0.0)
    plan.reset(3)
    fake = FakeSim(partition, plan)
    world = FollowedTabletop("gazebo", image_rate_hz=15.0)
    yield fake, world
    world.close()
    fake.close()


def test_the_running_gazebo_is_followed_commanded_and_judged(running):
    fake, world = running
    world.restart(3)
    assert world.instruction and world.elapsed_ns > 0
    target = ROBOT.home + [0.1, 0.0, 0.0, 0.0, 0.0, 0.2, -0.01]
    until(lambda: (world.advance(target), np.allclose(world.observe().joint_positions_J, target))[1], "the arm is where it was told to be")
    assert fake.positions["right_finger_joint"] == pytest.approx(target[-1])
    state = world.world_state()
    for ref, body in world.plan.objects().items():
        np.testing.assert_allclose(state.objects[ref].position, world.plan.data.xpos[body], atol=1e-9)
    until(lambda: world.aim("front"), "a picture comes")
    assert world.draw("front").shape == (*CAMERA_SIZE["front"], 3)
    assert not state.objects[ref].touched_by
    fake.touched.append(object_name(ref))
    until(lambda: world.world_state().objects[ref].touched_by == {0}, "the left finger touches it")


def test_time_that_goes_back_starts_the_judgement_again(running):
    fake, world = running
    world.restart(3)
    before = world._check
    until(lambda: (world.advance(ROBOT.home), world.elapsed_ns > 50_000_000)[1], "time goes on")
    fake.now_ns = 0
    until(lambda: (world.advance(ROBOT.home), world._check is not before)[1], "a new judgement")
    assert world.observe().stamp_ns < 10**9


def test_another_scene_than_the_running_one_is_refused_with_what_to_do(running):
    _, world = running
    with pytest.raises(ConfigError, match="vla sim export-sdf --seed 1 "):
        world.restart(1)


# ---- Gazebo Classic ----


def test_nobody_on_the_port_says_what_to_start():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(GazeboError, match="start gzserver"):
        ClassicConnection(port, "tabletop")


def test_something_else_on_the_port_is_no_gazebo():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet():
            stream, _ = other.accept()
            packet = classic.Packet(stamp=classic.Time(sec=0, nsec=0), type="hello", serialized_data=b"")
            send_frame(stream, packet.SerializeToString())
            stream.recv(1)

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(GazeboError, match="'hello'"):
            ClassicConnection(other.getsockname()[1], "tabletop")


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 300])
def test_frames_arrive_as_they_were_sent(body):
    one, other = socket.socketpair()
    with one, other:
        threading.Thread(target=send_frame, args=(one, body), daemon=True).start()
        assert receive_frame(other) == body


def test_an_unknown_message_names_the_known_ones():
    with pytest.raises(AttributeError, match="WorldControl"):
        _ = classic.Unknown
