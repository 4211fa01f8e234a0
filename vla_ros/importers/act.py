# SPDX-License-Identifier: Apache-2.0
"""LeRobot's ACT checkpoint folder to a bundle of continuous actions: configuration, statistics, weights.

Statistics lie in the weights' file (older releases: ``normalize_inputs.buffer_observation_state.mean``) or in a file of their own that the
pre- and postprocessor name (``policy_preprocessor.json``). Normalisation and units are folded into the graph.
Axes: S entries of the state, D dimensions of an action, C colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vla_ros import __version__
from vla_ros.core.action import ActionSpec
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import EXTENDED_VERSION, POLICY, Manifest
from vla_ros.core.schema import Fields
from vla_ros.importers.act_network import ActNetwork, ActShape, Affine, act_sources
from vla_ros.importers.bundle import seal, staged
from vla_ros.importers.checkpoint import Checkpoint, read_json
from vla_ros.importers.graphs import OPSET, Source, WeightFile, export_graph
from vla_ros.importers.interface import Camera, Interface
from vla_ros.importers.parity import Example, check_memory, count, difference, run_graph, types_of
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import ACTIONS, PROPRIO, image_input

GRAPH_FILE, WEIGHTS_FILE = "policy.onnx", "weights.bin"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
PREFIX = "model."
EPSILON = 1e-8  # LeRobot's, beside a deviation or for a range of zero
_SPREAD = 5.0  # deviations about the mean: bounds of an action whose statistics have no smallest and largest value
_BUFFERS = {"normalize_inputs.buffer_": "in", "normalize_targets.buffer_": "in", "unnormalize_outputs.buffer_": "out"}
_STEPS = {  # of the processors; others change what the network sees or says
    "rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor", "unnormalizer_processor",
}  # fmt: skip
_RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}

Statistics = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class ActConfig:
    """What ``config.json`` says.

    Attributes:
        images: name to height and width, in the network's order.
        state, dims: S and D.
        modes: kind of a feature to how it is normalised.
        data: the rest.
    """

    images: Mapping[str, tuple[int, int]]
    state: int
    dims: int
    modes: Mapping[str, str]
    data: Mapping[str, Any]

    @classmethod
    def load(cls, directory: Path) -> ActConfig:
        """Reads it.

        Raises:
            ConfigError: no ACT checkpoint of LeRobot, or a variant that this release does not build.
        """
        path = directory / "config.json"
        data = read_json(path)
        if data.get("type") != "act":
            raise ConfigError(
                f"{path} has the type {data.get('type')!r}: vla import lerobot-act reads 'act'; older files need LeRobot's own migration first"
            )
        inputs, outputs = (Fields(data, str(path)).mapping(key) for key in ("input_features", "output_features"))
        images = {name: _shape(feature, path, 3) for name, feature in inputs.items() if feature.get("type") == "VISUAL"}
        state = {name: _shape(feature, path, 1) for name, feature in inputs.items() if feature.get("type") == "STATE"}
        others = sorted(set(inputs) - set(images) - set(state))
        if others or set(state) - {STATE} or set(outputs) != {ACTION} or not images:
            raise ConfigError(
                f"{path} has the inputs {sorted(inputs)} and the outputs {sorted(outputs)}: this release builds pictures, {STATE} and {ACTION}"
            )
        if data.get("n_obs_steps", 1) != 1 or any(shape[0] != 3 for shape in images.values()):
            raise ConfigError(
                f"{path} wants {data.get('n_obs_steps', 1)} steps of {dict(images)}: this release builds one step of pictures in colour"
            )
        return cls(
            images={name: shape[1:] for name, shape in images.items()},
            state=state[STATE][0] if state else 0,
            dims=_shape(outputs[ACTION], path, 1)[0],
            modes=Fields(data, str(path)).mapping("normalization_mapping", {}),
            data=data,
        )

    def network(self, backbone_width: int) -> ActShape:
        """The network's shape; raises ConfigError naming a key that does not fit."""
        fields = Fields(self.data, "config.json")
        shape = ActShape(
            cameras=tuple(self.images.values()), state=self.state, dims=self.dims, horizon=fields.integer("chunk_size", 1),
            width=fields.integer("dim_model", 4, default=512), heads=fields.integer("n_heads", 1, default=8),
            hidden=fields.integer("dim_feedforward", 1, default=3200), encoder_layers=fields.integer("n_encoder_layers", 1, default=4),
            decoder_layers=fields.integer("n_decoder_layers", 1, default=1), pre_norm=fields.flag("pre_norm", False),
            activation=fields.choice("feedforward_activation", ("relu", "gelu"), "relu"), backbone=fields.text("vision_backbone", "resnet18"),
            backbone_width=backbone_width, dilated=bool(self.data.get("replace_final_stride_with_dilation", False)),
        )  # fmt: skip
        if shape.width % shape.heads or shape.width % 4:
            raise fields.refuse(f"dim_model {shape.width} must be a multiple of 4 and of n_heads {shape.heads}")
        return shape


def _shape(feature: Any, path: Path, axes: int) -> tuple[int, ...]:
    shape = feature.get("shape") if isinstance(feature, Mapping) else None
    if not isinstance(shape, list) or len(shape) != axes or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ConfigError(f"{path} has a feature of the shape {shape}: expected {axes} positive numbers")
    return tuple(shape)


def read_statistics(directory: Path, checkpoint: Checkpoint, images: Iterable[str] = ()) -> tuple[Statistics, Statistics]:
    """Statistics by feature, of what the network reads and of what it says; ``images`` are the pictures' names.

    Raises:
        ConfigError: a processor does something that this release does not, a file is missing, or there are none.
    """
    read: Statistics = {}
    said: Statistics = {}
    dotted = {name.replace(".", "_"): name for name in (STATE, ACTION, *images)}
    for prefix, side in _BUFFERS.items():
        for name in sorted(checkpoint.names):
            if name.startswith(prefix):
                feature, _, kind = name[len(prefix) :].rpartition(".")
                into = said if side == "out" else read
                into.setdefault(dotted.get(feature, feature), {})[kind] = checkpoint.tensor(name).double().numpy()
    for file_name, into in (("policy_preprocessor.json", read), ("policy_postprocessor.json", said)):
        if (directory / file_name).is_file():
            into |= _processor_statistics(directory, file_name)
    if not said:
        raise ConfigError(
            f"{directory} has statistics neither in its weights nor in policy_preprocessor.json and policy_postprocessor.json: without them "
            "the network's numbers have no units, save the checkpoint with its processors"
        )
    return read, said


def _processor_statistics(directory: Path, file_name: str) -> Statistics:
    found: Statistics = {}
    steps = read_json(directory / file_name).get("steps", [])
    for step in steps:
        name = step.get("registry_name") or step.get("class")
        if name not in _STEPS:
            raise ConfigError(
                f"{directory / file_name} has the step {name!r}, which changes what the network sees or says: this release knows {sorted(_STEPS)}"
            )
        if name not in ("normalizer_processor", "unnormalizer_processor"):
            continue
        state = step.get("state_file")
        if not isinstance(state, str) or Path(state).name != state or not state.endswith(".safetensors"):
            raise ConfigError(f"{directory / file_name} must name the statistics' safetensors file in the folder itself, got {state!r}")
        for key, value in _tensors(directory / state).items():
            feature, _, kind = key.rpartition(".")
            found.setdefault(feature, {})[kind] = value
    return found


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).double().numpy() for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): download the checkpoint again") from error


def centre_and_spread(statistics: Statistics, feature: str, mode: str, *, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """``normalised = (value - centre) / spread``, float64, one entry for each dimension (or colour).

    Args:
        statistics: by feature.
        feature: its name.
        mode: LeRobot's name of the normalisation.
        inverse: the pair is used the other way round, where LeRobot does not add its epsilon.

    Raises:
        ConfigError: an unknown mode, or statistics that are missing or not finite.
    """
    if mode == "IDENTITY":
        return np.zeros(1), np.ones(1)
    wanted = ("mean", "std") if mode == "MEAN_STD" else _RANGES.get(mode)
    if wanted is None:
        raise ConfigError(f"config.json normalises '{feature}' by {mode!r}; this release knows {['IDENTITY', 'MEAN_STD', *_RANGES]}")
    there = statistics.get(feature, {})
    if not all(kind in there and np.isfinite(there[kind]).all() for kind in wanted):
        raise ConfigError(
            f"the checkpoint has no finite {wanted} of '{feature}', only {sorted(there)}: it was saved before training began, or without its statistics"
        )
    first, second = (there[kind].reshape(-1) for kind in wanted)
    if mode == "MEAN_STD":
        return first, second if inverse else second + EPSILON
    width = np.where(second == first, EPSILON, second - first)
    return first + width / 2, width / 2


def import_act(directory: Path, out: Path, interface: Interface, *, parity: bool = True) -> Bundle:
    """Writes a bundle to ``out``, replacing an earlier one there.

    Args:
        directory: the checkpoint's folder.
        out: the bundle's folder.
        interface: robot, cameras, units and rate.
        parity: compare the graph with PyTorch on an example before the bundle is written.

    Raises:
        ConfigError: what of the checkpoint cannot be used, and what to do. Nothing is written then.
        VlaError: the graph does not say what PyTorch says. Nothing is written then.
    """
    directory = directory.expanduser().resolve()
    config = ActConfig.load(directory)
    checkpoint = Checkpoint(directory)
    cameras = match_cameras(config, interface)
    interface.check_dims(config.dims, str(directory))
    if len(interface.proprio) != config.state:
        names = [spec.name for spec, _ in interface.proprio]
        raise ConfigError(
            f"{directory} reads a state of {config.state} values, the interface's proprio names {len(names)} {names}: give one entry for each, in order"
        )
    read, said = read_statistics(directory, checkpoint, config.images)
    network = _network(config, checkpoint, interface, read, said)
    if parity:
        check_memory(count(network))
    with staged(out) as folder:
        with WeightFile(folder / WEIGHTS_FILE, act_sources(checkpoint, network, PREFIX)) as weights:
            weights.place_all(network)  # before the graph: what cannot be used shows at once
            _check_all_read(checkpoint)
            export_graph(network.eval(), _inputs(cameras, config), [ACTIONS], folder / GRAPH_FILE, weights)
        agreed = (
            compare_with_torch(folder / GRAPH_FILE, network, cameras, config, act_sources(checkpoint, network, PREFIX)) if parity else None
        )
        bundle = seal(folder, _manifest(out.name, cameras, config, interface, said, agreed))
    return Bundle(directory=out.expanduser().resolve(), manifest=bundle.manifest, sha256=bundle.sha256)


def compare_with_torch(
    path: Path, network: ActNetwork, cameras: tuple[Camera, ...], config: ActConfig, sources: Mapping[str, Source]
) -> float:
    """The largest difference of the graph on made-up pictures and a made-up state."""
    random = np.random.default_rng(0)
    inputs = {image_input(c.spec.name): random.integers(0, 256, (1, *c.spec.shape), dtype=np.uint8) for c in cameras}
    if config.state:
        inputs[PROPRIO] = random.standard_normal((1, config.state), dtype=np.float32)
    example = Example(path=path, module=network, inputs=inputs, outputs=[ACTIONS])
    return difference(example, run_graph(example), sources, types_of(network))


def match_cameras(config: ActConfig, interface: Interface) -> tuple[Camera, ...]:
    """The interface's cameras in the network's order.

    Raises:
        ConfigError: a picture without a camera, a camera without a picture, or another size.
    """
    by_source = {camera.source or IMAGES + camera.spec.name: camera for camera in interface.cameras}
    if set(by_source) != set(config.images):
        raise ConfigError(
            f"the checkpoint sees {sorted(config.images)}, the interface's cameras are for {sorted(by_source)}: name them with 'source'"
        )
    for name, (height, width) in config.images.items():
        spec = by_source[name].spec
        if (spec.height, spec.width) != (height, width):
            raise ConfigError(
                f"'{name}' is {height} x {width} in the checkpoint, camera '{spec.name}' is {spec.height} x {spec.width}: give it that size"
            )
    return tuple(by_source[name] for name in config.images)


def _network(config: ActConfig, checkpoint: Checkpoint, interface: Interface, read: Statistics, said: Statistics) -> ActNetwork:
    modes = {kind: config.modes.get(kind, "IDENTITY") for kind in ("VISUAL", "STATE", "ACTION")}
    pixels = []
    for name in config.images:
        centre_C, spread_C = (np.broadcast_to(part, 3).tolist() for part in centre_and_spread(read, name, modes["VISUAL"], inverse=False))
        pixels.append((centre_C, spread_C))
    state = None
    if config.state:
        centre_S, spread_S = (np.broadcast_to(p, config.state) for p in centre_and_spread(read, STATE, modes["STATE"], inverse=False))
        scale_S, offset_S = (np.array([getattr(scaled, part) for _, scaled in interface.proprio]) for part in ("scale", "offset"))
        state = Affine(scale=1.0 / (scale_S * spread_S), shift=offset_S + scale_S * centre_S)
    centre_D, spread_D = (np.broadcast_to(p, config.dims) for p in centre_and_spread(said, ACTION, modes["ACTION"], inverse=True))
    scale_D, offset_D = (np.array([getattr(dim.scaled, part) for dim in interface.dims]) for part in ("scale", "offset"))
    action = Affine(scale=scale_D * spread_D, shift=offset_D + scale_D * centre_D)
    width = checkpoint.shape(f"{PREFIX}backbone.conv1.weight")[0]
    return ActNetwork(config.network(width), pixels, state, action)


def _check_all_read(checkpoint: Checkpoint) -> None:
    """A weight that nobody reads means that the network is not the one that is built; the training's encoder is known."""
    checkpoint.ignore(f"{PREFIX}vae_encoder", f"{PREFIX}encoder_latent_input_proj.weight", f"{PREFIX}backbone.fc.", *_BUFFERS)
    left = sorted(name for name in checkpoint.unread if not name.endswith("num_batches_tracked"))
    if left:
        raise ConfigError(f"{checkpoint.directory} has weights that ACT does not have, such as {left[:3]}: this is another model")


def _inputs(cameras: tuple[Camera, ...], config: ActConfig) -> dict[str, torch.Tensor]:
    inputs = {image_input(c.spec.name): torch.empty(1, *c.spec.shape, dtype=torch.uint8, device="meta") for c in cameras}
    return inputs | ({PROPRIO: torch.empty(1, config.state, device="meta")} if config.state else {})


def action_bounds(said: Statistics, interface: Interface) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of the data in the robot's units, [D] each; five deviations about the mean where it is not known.

    Raises:
        ConfigError: neither is known, and the interface does not give bounds itself.
    """
    there = said.get(ACTION, {})
    if "min" in there and "max" in there:
        ends = there["min"].reshape(-1), there["max"].reshape(-1)
    elif "mean" in there and "std" in there:
        mean_D, std_D = there["mean"].reshape(-1), there["std"].reshape(-1)
        ends = mean_D - _SPREAD * std_D, mean_D + _SPREAD * std_D
    elif all(dim.low is not None and dim.high is not None for dim in interface.dims):
        ends = np.zeros(len(interface.dims)), np.ones(len(interface.dims))
    else:
        raise ConfigError(f"the statistics of the action have only {sorted(there)}: give each of the interface's dims 'low' and 'high'")
    scale_D, offset_D = (np.array([getattr(dim.scaled, part) for dim in interface.dims]) for part in ("scale", "offset"))
    low_D, high_D = np.minimum(*(offset_D + scale_D * end for end in ends)), np.maximum(*(offset_D + scale_D * end for end in ends))
    flat_D = high_D - low_D < 1e-6
    return np.where(flat_D, low_D - 1e-6, low_D), np.where(flat_D, high_D + 1e-6, high_D)


def _manifest(
    name: str, cameras: tuple[Camera, ...], config: ActConfig, interface: Interface, said: Statistics, parity: float | None
) -> Manifest:
    bounds = (bound.tolist() for bound in action_bounds(said, interface))
    return Manifest(
        name=name,
        description="ACT from LeRobot. It reads no text: any instruction starts the task that it was trained for.",
        robot=interface.robot,
        cameras=tuple(camera.spec for camera in cameras),
        proprio=tuple(spec for spec, _ in interface.proprio),
        action=ActionSpec(
            dims=tuple(dim.spec(low, high) for dim, low, high in zip(interface.dims, *bounds)),
            horizon=int(config.data["chunk_size"]),
            dt_s=interface.dt_s,
        ),
        vocabulary=None,
        plan=None,
        prompt_template="",
        decoding="parallel",
        context=None,
        files={POLICY: GRAPH_FILE, "weights": WEIGHTS_FILE},
        sha256={},
        opset=OPSET,
        norm_stats={"modes": dict(config.modes)},
        provenance={
            "vla_ros": __version__,
            "torch": str(torch.__version__),
            "imported_from": "lerobot-act",
            "difference_from_torch": parity,
            "sources": {camera.spec.name: source for camera, source in zip(cameras, config.images)},
        },  # fmt: skip
        format_version=EXTENDED_VERSION,
        output="continuous",
    )
