# SPDX-License-Identifier: Apache-2.0
"""An imported ACT says what PyTorch says, in the robot's units; what it cannot be is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from act_reference import DIMS, HORIZON, IMAGES, MODES, STATE, expected, make_checkpoint, make_model, statistics
from safetensors.torch import load_file, save_file

from vla_ros.core.chunk import Reference
from vla_ros.core.errors import ConfigError, DecodeError
from vla_ros.core.observation import Observation
from vla_ros.core.paths import robot_config_path
from vla_ros.core.tabletop import JOINT_NAMES
from vla_ros.importers.act import import_act
from vla_ros.importers.interface import Interface
from vla_ros.robot import RobotDescription
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.contract import ACTIONS, PROPRIO
from vla_ros.runtime.policy import Policy, open_backend

DEGREE = math.pi / 180.0
GRIPPER = 0.042 / 100.0  # metres of the tabletop's gripper for one per cent of the checkpoint's


def interface_data() -> dict:
    def scaled(name: str) -> dict:
        return {"scale": GRIPPER, "offset": 0.021} if name == "gripper_joint" else {"scale": DEGREE}

    units = {name: "m" if name == "gripper_joint" else "rad" for name in JOINT_NAMES}
    return {
        "robot": "tabletop_arm",
        "dt_s": 0.05,
        "cameras": [
            {"name": "wrist", "height": 33, "width": 33, "source": "observation.images.wrist_cam"},
            {"name": "front", "height": 45, "width": 60},
        ],
        "dims": [
            {
                "name": n,
                "kind": "gripper" if n == "gripper_joint" else "joint",
                "unit": units[n],
                "frame": n,
                "relative": False,
                **scaled(n),
            }
            for n in JOINT_NAMES
        ],
        "proprio": [{"name": n, "unit": units[n], "source": "joint", **scaled(n)} for n in JOINT_NAMES],
    }


INTERFACE = Interface.from_dict(interface_data())
SCALE = np.array([*[DEGREE] * 6, GRIPPER])
OFFSET = np.array([*[0.0] * 6, 0.021])


def pictures(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (*shape[1:], 3), dtype=np.uint8) for name, shape in IMAGES.items()}


def state(seed: int) -> np.ndarray:
    """In the checkpoint's units; the last value never moved in the data (LeRobot divides by 1e-8 there) and does not move here."""
    values = np.random.default_rng(seed).uniform(-30, 30, STATE)
    values[-1] = 11.5
    return values


def ask(bundle, images, values) -> np.ndarray:
    feed = {f"image_{name}": images[source][None] for name, source in bundle.manifest.provenance["sources"].items()}
    if values is not None:
        feed[PROPRIO] = (OFFSET + SCALE * values).astype(np.float32)[None]
    return open_backend(bundle).infer(feed)[ACTIONS][0].copy()


KINDS = {
    "as LeRobot has it by default": ({}, "processors", MODES, {}),
    "statistics among the weights": ({}, "buffers", MODES, {}),
    "norms in front": ({"pre_norm": True, "activation": "gelu"}, "processors", {**MODES, "ACTION": "MIN_MAX", "VISUAL": "IDENTITY"}, {}),
    "dilated bottlenecks": (
        {"backbone": "resnet50", "dilated": True},
        "processors",
        {"VISUAL": "MIN_MAX", "STATE": "QUANTILES", "ACTION": "QUANTILES"},
        {},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_the_references_in_the_robots_units(tmp_path, kind):
    facts, layout, modes, changes = KINDS[kind]
    model = make_model(**facts)
    changes = {
        "pre_norm": facts.get("pre_norm", False),
        "feedforward_activation": facts.get("activation", "relu"),
        "vision_backbone": facts.get("backbone", "resnet18"),
        "replace_final_stride_with_dilation": facts.get("dilated", False),
        **changes,
    }
    bundle = import_act(make_checkpoint(tmp_path / "act", model, layout=layout, modes=modes, **changes), tmp_path / "out", INTERFACE)
    assert [camera.name for camera in bundle.manifest.cameras] == ["front", "wrist"], "in the network's order"
    for seed in range(3):
        values = state(seed)
        wanted = OFFSET + SCALE * expected(model, pictures(seed), values, modes)
        np.testing.assert_allclose(ask(bundle, pictures(seed), values), wanted, atol=2e-5)


@pytest.fixture(scope="module")
def act_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("act")
    model = make_model()
    return model, import_act(make_checkpoint(folder / "checkpoint", model), folder / "bundle", INTERFACE)


def test_pictures_and_state_both_count(act_bundle):
    bundle = act_bundle[1]
    base = ask(bundle, pictures(0), state(0))
    for name in IMAGES:
        assert np.abs(ask(bundle, {**pictures(0), name: pictures(1)[name]}, state(0)) - base).max() > 1e-5
    assert np.abs(ask(bundle, pictures(0), state(1)) - base).max() > 1e-5


@pytest.fixture(scope="module")
def robot():
    return RobotDescription.load(robot_config_path("tabletop_arm"))


def observe(robot, seed: int = 0, **changes) -> Observation:
    images = {"front": pictures(seed)["observation.images.front"], "wrist": pictures(seed)["observation.images.wrist_cam"]}
    facts = {
        "images": images,
        "image_stamp_ns": {"front": 2000, "wrist": 1000},
        "joint_positions": robot.home.copy(),
        "joint_stamp_ns": 1500,
    }
    return Observation(**{**facts, "instruction": "go", "generation": 3, **changes})


def test_a_bundle_drives_a_robot_through_the_policy_that_the_worker_uses(act_bundle, robot):
    model, bundle = act_bundle
    policy = Policy(load_bundle(bundle.directory), robot)
    assert policy.warm_up() > 0.0
    policy.check_instruction("it reads no text, so that no text is too long " * 50)
    joints = robot.home.copy()
    joints[-1] = 0.021 + GRIPPER * 11.5
    chunk = policy.infer(observe(robot, joint_positions=joints))
    chunk.validate(7)
    images = {source: observe(robot).images[name] for name, source in bundle.manifest.provenance["sources"].items()}
    values = (joints - OFFSET) / SCALE
    values[-1] = 11.5
    wanted = bundle.manifest.action.clip(OFFSET + SCALE * expected(model, images, values))
    np.testing.assert_allclose(chunk.actions_HD, wanted, atol=5e-5)
    np.testing.assert_allclose(chunk.joint_positions_HJ, np.clip(wanted, robot.limits.position_min, robot.limits.position_max), atol=5e-5)
    assert chunk.horizon == HORIZON and chunk.dt_ns == 50_000_000 and not chunk.terminate_H.any() and chunk.plan == ""
    assert (chunk.tokens_HD >= 0).all() and (chunk.tokens_HD < 256).all() and (chunk.confidence_HD == 1.0).all()


def test_no_step_of_a_continuous_chunk_is_committed(act_bundle, robot):
    policy = Policy(load_bundle(act_bundle[1].directory), robot)
    prefix = policy.commit(observe(robot), Reference.at_rest(0, robot.home), 10**9)
    assert (prefix == -1).all() and policy.infer(observe(robot), prefix).committed == 0
    with pytest.raises(DecodeError, match="continuous actions"):
        policy.infer(observe(robot), np.full((HORIZON, DIMS), 3))


def test_actions_that_are_not_finite_are_refused(act_bundle, robot):
    class Broken:
        def infer(self, inputs):
            return {ACTIONS: np.full((1, HORIZON, DIMS), np.nan, np.float32)}

        def warm_up(self):
            return 0.0

    with pytest.raises(DecodeError, match="not finite"):
        Policy(load_bundle(act_bundle[1].directory), robot, backend=Broken()).infer(observe(robot))


def test_bounds_are_those_of_the_data(act_bundle):
    action, table = act_bundle[1].manifest.action, statistics()["action"]
    np.testing.assert_allclose(action.low_D, OFFSET + SCALE * table["min"].numpy(), rtol=1e-6)
    np.testing.assert_allclose(action.high_D, OFFSET + SCALE * table["max"].numpy(), rtol=1e-6)


# ---- refusals ----


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "checkpoint", make_model())


def refused(folder, tmp_path, words: str, **changes) -> None:
    out = tmp_path / "refused"
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        import_act(folder, out, Interface.from_dict({**interface_data(), **changes}))
    assert not out.exists() and not list(tmp_path.glob(".refused*")), "nothing is left behind"


def change_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


VISUAL = {name: {"type": "VISUAL", "shape": list(shape)} for name, shape in IMAGES.items()}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"type": "diffusion"}, "'diffusion'"),
        ({"vision_backbone": "vit_b_16"}, "vit_b_16.*resnet18"),
        ({"n_obs_steps": 2}, "one step"),
        ({"dim_model": 30}, "multiple of 4"),
        ({"feedforward_activation": "glu"}, "glu"),
        ({"replace_final_stride_with_dilation": True}, "dilated resnet18"),
        ({"chunk_size": 7}, r"\[6, 32\]|\[1, 6, 32\]"),
        ({"normalization_mapping": {**MODES, "ACTION": "LOG"}}, "'LOG'.*MEAN_STD"),
        ({"input_features": {**VISUAL, "observation.environment_state": {"type": "ENV", "shape": [3]}}}, "environment_state"),
        ({"input_features": {"observation.images.front": {"type": "VISUAL", "shape": [3, 45]}}}, "3 positive numbers"),
        ({"output_features": {"action": {"type": "ACTION", "shape": [6]}}}, "6 dimensions, the interface names 7"),
    ],
)
def test_another_network_is_refused_by_name(folder, tmp_path, changes, words):
    change_config(folder, **changes)
    refused(folder, tmp_path, words)


def test_an_interface_that_does_not_fit_is_refused(folder, tmp_path):
    cameras = interface_data()["cameras"]
    refused(folder, tmp_path, "wrist_cam.*name them with 'source'", cameras=cameras[1:])
    refused(
        folder,
        tmp_path,
        "33 x 33 in the checkpoint, camera 'wrist' is 64 x 64",
        cameras=[{**cameras[0], "height": 64, "width": 64}, cameras[1]],
    )
    refused(folder, tmp_path, "state of 7 values.*names 6", proprio=interface_data()["proprio"][:6])
    refused(
        folder, tmp_path, "'scale' must not be zero", dims=[{**interface_data()["dims"][0], "scale": 0.0}, *interface_data()["dims"][1:]]
    )
    refused(folder, tmp_path, "unknown keys.*factor", dims=[{**interface_data()["dims"][0], "factor": 1.0}, *interface_data()["dims"][1:]])


def test_without_statistics_it_is_refused(folder, tmp_path):
    (folder / "policy_preprocessor.json").unlink()
    refused(folder, tmp_path, "no finite.*observation.images.front")
    (folder / "policy_postprocessor.json").unlink()
    refused(folder, tmp_path, "have no units")


def test_statistics_that_were_never_filled_are_refused(tmp_path):
    """LeRobot's older releases begin with infinity in the buffers."""
    folder = make_checkpoint(tmp_path / "checkpoint", make_model(), layout="buffers")
    weights = load_file(folder / "model.safetensors")
    weights["unnormalize_outputs.buffer_action.std"].fill_(float("inf"))
    save_file(weights, folder / "model.safetensors")
    refused(folder, tmp_path, "not finite")


@pytest.mark.parametrize("file_name", ["../../secret.safetensors", "/etc/passwd", "state.bin", None])
def test_a_processor_cannot_lead_out_of_the_folder(folder, tmp_path, file_name):
    path = folder / "policy_postprocessor.json"
    data = json.loads(path.read_text())
    data["steps"][0]["state_file"] = file_name
    path.write_text(json.dumps(data))
    refused(folder, tmp_path, "in the folder itself")


def test_a_processor_step_that_changes_the_action_is_refused(folder, tmp_path):
    path = folder / "policy_postprocessor.json"
    data = json.loads(path.read_text())
    data["steps"].append({"registry_name": "absolute_actions_processor", "config": {}})
    path.write_text(json.dumps(data))
    refused(folder, tmp_path, "absolute_actions_processor")


def test_weights_that_nobody_reads_are_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.layers.2.linear1.weight"] = torch.zeros(48, 32)
    save_file(weights, folder / "model.safetensors")
    refused(folder, tmp_path, "encoder.layers.2.linear1.weight")
