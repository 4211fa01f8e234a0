# SPDX-License-Identifier: Apache-2.0
"""The protobuf messages that the clients exchange with Gazebo, with the fields that they need.

Made at import from the tables below, so that nothing has to be generated: field numbers and types are those of ``gazebo/msgs/proto``
(Gazebo 11) and of ``ignition/msgs`` (version 5, unchanged since in ``gz/msgs``). Fields that are not named here are skipped when read.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message: "number type name", "repeated" and "required" before it
_CLASSIC = {
    "Time": ["required 1 int32 sec", "required 2 int32 nsec"],
    "Packet": ["required 1 Time stamp", "required 2 string type", "required 3 bytes serialized_data"],
    "GzString": ["required 1 string data"],
    "Publish": ["required 1 string topic", "required 2 string msg_type", "required 3 string host", "required 4 uint32 port"],
    "Publishers": ["repeated 1 Publish publisher"],
    "Subscribe": [
        "required 1 string topic", "required 2 string host", "required 3 uint32 port", "required 4 string msg_type", "5 bool latching",
    ],
    "Vector3d": ["required 1 double x", "required 2 double y", "required 3 double z"],
    "Quaternion": ["required 2 double x", "required 3 double y", "required 4 double z", "required 5 double w"],
    "Pose": ["1 string name", "2 uint32 id", "required 3 Vector3d position", "required 4 Quaternion orientation"],
    "PosesStamped": ["required 1 Time time", "repeated 2 Pose pose"],
    "Image": [
        "required 1 uint32 width", "required 2 uint32 height", "required 3 uint32 pixel_format", "required 4 uint32 step",
        "required 5 bytes data",
    ],
    "ImageStamped": ["required 1 Time time", "required 2 Image image"],
    "WorldReset": ["1 bool all", "2 bool time_only", "3 bool model_only"],
    "WorldControl": ["1 bool pause", "2 bool step", "3 uint32 multi_step", "4 WorldReset reset"],
    "WorldStatistics": [
        "required 2 Time sim_time", "required 3 Time pause_time", "required 4 Time real_time", "required 5 bool paused",
        "required 6 uint64 iterations",
    ],
    "Contact": ["required 1 string collision1", "required 2 string collision2", "required 7 Time time", "required 8 string world"],
    "Contacts": ["repeated 1 Contact contact", "required 2 Time time"],
    "Request": ["required 1 int32 id", "required 2 string request", "3 string data", "4 double dbl_data"],
    "Response": ["required 1 int32 id", "required 2 string request", "required 3 string response", "4 string type", "5 bytes serialized_data"],
    "Model": ["required 1 string name", "2 uint32 id", "3 bool is_static", "4 Pose pose"],
    "Physics": ["1 int32 type", "13 double real_time_factor", "14 double real_time_update_rate", "15 double max_step_size"],
}  # fmt: skip
_SIM = {
    "Header.Map": ["1 string key", "repeated 2 string value"],
    "Time": ["1 int64 sec", "2 int32 nsec"],
    "Header": ["1 Time stamp", "repeated 2 Header.Map data"],
    "Double": ["1 Header header", "2 double data"],
    "PID": [
        "1 Header header", "9 Double target_optional", "10 Double p_gain_optional", "11 Double i_gain_optional", "12 Double d_gain_optional",
        "13 Double i_max_optional", "14 Double i_min_optional", "15 Double limit_optional",
    ],
    "JointCmd": ["1 Header header", "2 string name", "3 int32 axis", "5 PID position", "6 PID velocity", "7 bool reset"],
    "Clock": ["1 Header header", "2 Time system", "3 Time real", "4 Time sim"],
    "Image": ["1 Header header", "2 uint32 width", "3 uint32 height", "4 uint32 step", "5 bytes data", "6 int32 pixel_format_type"],
    "Vector3d": ["1 Header header", "2 double x", "3 double y", "4 double z"],
    "Quaternion": ["1 Header header", "2 double x", "3 double y", "4 double z", "5 double w"],
    "Pose": ["1 Header header", "2 string name", "3 uint32 id", "4 Vector3d position", "5 Quaternion orientation"],
    "Pose_V": ["1 Header header", "repeated 2 Pose pose"],
    "Axis": ["1 Header header", "2 Vector3d xyz", "10 double position", "11 double velocity", "12 double force"],
    "Joint": ["1 Header header", "2 string name", "10 Axis axis1"],
    "Model": ["1 Header header", "2 string name", "repeated 6 Joint joint"],
    "Entity": ["1 Header header", "2 uint64 id", "3 string name"],
    "Contact": ["1 Header header", "2 Entity collision1", "3 Entity collision2"],
    "Contacts": ["1 Header header", "repeated 2 Contact contact"],
    "Discovery.Flags": ["1 bool relay", "2 bool no_relay"],
    "Discovery.Subscriber": ["1 string topic"],
    "Discovery.MessagePublisher": ["1 string ctrl", "2 string msg_type", "3 bool throttled", "4 uint64 msgs_per_sec"],
    "Discovery.Publisher": [
        "1 string topic", "2 string address", "3 string process_uuid", "4 string node_uuid", "5 int32 scope",
        "6 Discovery.MessagePublisher msg_pub",
    ],
    "Discovery": [
        "1 Header header", "2 uint32 version", "3 string process_uuid", "4 int32 type", "5 Discovery.Flags flags",
        "6 Discovery.Subscriber sub", "7 Discovery.Publisher pub",
    ],
}  # fmt: skip
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "uint32": _FIELD.TYPE_UINT32, "uint64": _FIELD.TYPE_UINT64,
    "bool": _FIELD.TYPE_BOOL, "double": _FIELD.TYPE_DOUBLE, "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES,
}  # fmt: skip
_LABELS = {"required": _FIELD.LABEL_REQUIRED, "repeated": _FIELD.LABEL_REPEATED, "optional": _FIELD.LABEL_OPTIONAL}


class Messages:
    """Message classes of one table as attributes: ``classic.Packet(...)``."""

    def __init__(self, package: str, table: dict[str, list[str]]) -> None:
        file = descriptor_pb2.FileDescriptorProto(name=f"vla_ros/{package}.proto", package=package, syntax="proto2")
        for name, rows in table.items():
            message = file.message_type.add(name=_flat(name))
            for row in rows:
                _add_field(message, row, package)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self._classes = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{_flat(name)}")) for name in table}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._classes[name]
        except KeyError:
            raise AttributeError(f"no message {name}; there are {', '.join(self._classes)}") from None

    def new(self, name: str, **fields: Any) -> Any:
        """A message by its full name, nested ones with a dot: ``new("Discovery.Publisher", topic=...)``."""
        return self._classes[name](**fields)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _add_field(message: Any, row: str, package: str) -> None:
    words = row.split()
    label = words.pop(0) if words[0] in _LABELS else "optional"
    number, kind, name = words
    field = message.field.add(name=name, number=int(number), label=_LABELS[label])
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{_flat(kind)}"


classic = Messages("vla_gazebo_classic", _CLASSIC)
sim = Messages("vla_gazebo_sim", _SIM)
