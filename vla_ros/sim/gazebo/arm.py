# SPDX-License-Identifier: Apache-2.0
"""The arm's SDFormat model, made from its URDF.

What differs from what a URDF converter makes, and why: links that are fixed to another are merged into it; gravity does not act on the
arm, as its own controllers compensate it; servo damping is joint damping, which the physics engines integrate implicitly (an explicit
derivative term makes light wrists unstable); each rotor's inertia is added to the link it turns.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.sim.gazebo.plan import ScenePlan, Servo
from vla_ros.sim.gazebo.xml import add, add_inertial, add_pose, rotation_of_rpy, text_of

ARM = "arm"  # name of the model
FINGER_FRICTION = 1.6


@dataclass
class Link:
    """One rigid body: pose in base_link with all joints at zero, mass properties about its centre of mass, and its shapes."""

    name: str
    position: np.ndarray
    rotation: np.ndarray
    mass: float = 0.0
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))
    inertia: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    shapes: list[tuple[ET.Element, np.ndarray, np.ndarray]] = field(default_factory=list)  # visual or collision, position, rotation


def read_links(urdf: ET.Element) -> dict[str, Link]:
    """All moving links of a URDF, each with what is fixed to it merged in; parents before children."""
    elements = {link.get("name"): link for link in urdf.findall("link")}
    joints = urdf.findall("joint")
    (root,) = set(elements) - {joint.find("child").get("link") for joint in joints}
    links = {root: _body(elements[root], np.zeros(3), np.eye(3))}
    poses, carrier, waiting = {root: (np.zeros(3), np.eye(3))}, {root: root}, [root]
    while waiting:
        parent = waiting.pop(0)
        for joint in (j for j in joints if j.find("parent").get("link") == parent):
            child = joint.find("child").get("link")
            offset, turn = _origin(joint)
            position, rotation = poses[parent]
            poses[child] = position + rotation @ offset, rotation @ turn
            body = _body(elements[child], *poses[child])
            if joint.get("type") == "fixed":
                carrier[child] = carrier[parent]
                _merge(links[carrier[parent]], body)
            else:
                carrier[child] = child
                links[child] = body
            waiting.append(child)
    return links


def _body(element: ET.Element, position: np.ndarray, rotation: np.ndarray) -> Link:
    link = Link(element.get("name"), position, rotation)
    inertial = element.find("inertial")
    if inertial is not None:
        centre, turn = _origin(inertial)
        i = {k: float(v) for k, v in inertial.find("inertia").attrib.items()}
        tensor = np.array([[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]])
        link.mass, link.centre, link.inertia = float(inertial.find("mass").get("value")), centre, turn @ tensor @ turn.T
    link.shapes = [(shape, *_origin(shape)) for shape in element if shape.tag in ("visual", "collision")]
    return link


def _origin(element: ET.Element) -> tuple[np.ndarray, np.ndarray]:
    origin = element.find("origin")
    numbers = {k: np.array([float(v) for v in text.split()]) for k, text in (origin.attrib if origin is not None else {}).items()}
    return numbers.get("xyz", np.zeros(3)), rotation_of_rpy(numbers.get("rpy", np.zeros(3)))


def _merge(into: Link, body: Link) -> None:
    """Adds a rigidly attached body (parallel-axis theorem)."""
    offset = into.rotation.T @ (body.position - into.position)
    turn = into.rotation.T @ body.rotation
    into.shapes += [(shape, offset + turn @ p, turn @ r) for shape, p, r in body.shapes]
    mass = into.mass + body.mass
    if body.mass == 0.0:
        return
    other = offset + turn @ body.centre
    centre = (into.mass * into.centre + body.mass * other) / mass
    parts = ((into.mass, into.centre, into.inertia), (body.mass, other, turn @ body.inertia @ turn.T))
    into.inertia = sum(tensor + m * _steiner(c - centre) for m, c, tensor in parts)
    into.mass, into.centre = mass, centre


def _steiner(r: np.ndarray) -> np.ndarray:
    return float(r @ r) * np.eye(3) - np.outer(r, r)


# ---- SDFormat ----


def arm_model(plan: ScenePlan) -> ET.Element:
    """The model without sensors and plugins, standing at the origin with all joints at zero."""
    urdf = ET.parse(plan.robot.urdf_path).getroot()
    links, servos = read_links(urdf), plan.servos()
    colours = {m.get("name"): m.find("color").get("rgba") for m in urdf.findall("material")}
    moving = [j for j in urdf.findall("joint") if j.get("type") != "fixed"]
    rotors = {joint.find("child").get("link"): (servos[joint.get("name")], _axis(joint), joint.get("type")) for joint in moving}
    model = ET.Element("model", name=ARM)
    add(model, "self_collide", False)
    add(model, "allow_auto_disable", False)
    for link in links.values():
        model.append(_link(link, colours, rotors.get(link.name)))
    anchor = add(model, "joint", name="anchor", type="fixed")
    add(anchor, "parent", "world")
    add(anchor, "child", next(iter(links)))
    for joint in moving:
        model.append(_joint(joint, servos[joint.get("name")]))
    return model


def _link(link: Link, colours: dict[str, str], rotor: tuple[Servo, np.ndarray, str] | None) -> ET.Element:
    element = ET.Element("link", name=link.name)
    add_pose(element, link.position, link.rotation)
    inertia = link.inertia
    if rotor is not None and rotor[2] == "revolute":
        servo, axis, _ = rotor
        inertia = inertia + servo.armature * (np.outer(axis, axis) + 0.5 * (np.eye(3) - np.outer(axis, axis)))  # a thin disk about the axis
    add_inertial(element, link.mass, link.centre, inertia)
    add(element, "gravity", False)
    for shape, position, rotation in link.shapes:
        part = add(element, shape.tag, name=shape.get("name"))
        add_pose(part, position, rotation)
        _geometry(part, shape.find("geometry"))
        if shape.tag == "visual":
            add_material(part, np.array([float(v) for v in colours[shape.find("material").get("name")].split()]))
        else:
            add_friction(part, FINGER_FRICTION if "finger" in link.name else 1.0)
    return element


def _geometry(part: ET.Element, geometry: ET.Element) -> None:
    (shape,) = geometry
    if shape.tag == "box":
        add(part, "geometry/box/size", shape.get("size"))
    elif shape.tag == "cylinder":
        add(part, "geometry/cylinder/radius", shape.get("radius"))
        add(part, "geometry/cylinder/length", shape.get("length"))
    else:
        raise ConfigError(f"the URDF has a shape '{shape.tag}': export-sdf knows box and cylinder")


def _axis(joint: ET.Element) -> np.ndarray:
    return np.array([float(v) for v in joint.find("axis").get("xyz").split()])


def _joint(joint: ET.Element, servo: Servo) -> ET.Element:
    element = ET.Element("joint", name=joint.get("name"), type=joint.get("type"))
    add(element, "parent", joint.find("parent").get("link"))
    add(element, "child", joint.find("child").get("link"))
    limit = joint.find("limit")
    add(element, "axis/xyz", _axis(joint))
    for name in ("lower", "upper", "effort", "velocity"):
        add(element, f"axis/limit/{name}", limit.get(name))
    add(element, "axis/dynamics/damping", servo.damping)
    add(element, "axis/dynamics/friction", 0.0)
    add(element, "physics/ode/implicit_spring_damper", True)
    return element


def add_material(visual: ET.Element, rgba: np.ndarray) -> None:
    """Ambient and diffuse alike, as MuJoCo's colours are."""
    for name in ("ambient", "diffuse"):
        add(visual, f"material/{name}", rgba)
    add(visual, "material/specular", [0.02, 0.02, 0.02, 1.0])


def add_friction(collision: ET.Element, friction: float) -> None:
    """Coulomb friction and a contact that is stiff but not hard: hard ones throw gripped blocks about."""
    for name in ("mu", "mu2"):
        add(collision, f"surface/friction/ode/{name}", text_of(friction))
    for name, value in (("kp", 1e5), ("kd", 50.0), ("max_vel", 0.1), ("min_depth", 0.0002)):
        add(collision, f"surface/contact/ode/{name}", value)
