# SPDX-License-Identifier: Apache-2.0
"""What belongs to a policy's graph exports, and ONNX Runtime answers as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vla_ros.core.observation import CameraSpec
from vla_ros.model.cross_attention import CrossModalPolicy
from vla_ros.model.image_tokens import ImageTokenIds, ImageTokenizerConfig, make_tokenizer
from vla_ros.model.moe import MixtureFeedForward, MoeConfig
from vla_ros.model.vit import VitConfig, VitStem

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

CAMERAS = (CameraSpec(name="front", height=32, width=32), CameraSpec(name="wrist", height=16, width=16))
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums of a few hundred terms of size one, in another order


class Named(nn.Module):
    """Pictures as separate inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, front: torch.Tensor, wrist: torch.Tensor) -> torch.Tensor:
        return self.module({"front": front, "wrist": wrist})


def pictures(batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randint(0, 256, (batch, *camera.shape), dtype=torch.uint8, generator=generator) for camera in CAMERAS)


def run_exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> list[np.ndarray]:
    """Outputs of the module's graph in ONNX Runtime."""
    names = [f"input_{index}" for index in range(len(inputs))]
    with torch.inference_mode():
        program = torch.onnx.export(module.eval(), inputs, input_names=names, opset_version=18, dynamo=True, external_data=False, optimize=True, verbose=False)
    path.write_bytes(program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs)})


def test_vision_transformer(tmp_path):
    torch.manual_seed(0)
    stem = Named(VitStem(VitConfig(cameras=CAMERAS, patch=8, width=24, depth=2, heads=3), 32, class_token=True))
    (answer,) = run_exported(stem, pictures(), tmp_path / "vit.onnx")
    torch.testing.assert_close(torch.from_numpy(answer), stem(*pictures()), **CLOSE)


@pytest.mark.parametrize("kind", ["vqvae", "dvae"])
def test_image_tokens(kind, tmp_path):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(ImageTokenizerConfig(kind=kind, stride=8, channels=16, codes=12, code_width=8))  # fewer codes than cells: none start alike
    for parameter in tokenizer.encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    for _ in range(20):
        tokenizer.train()(pictures()[0])
    ids = Named(ImageTokenIds(tokenizer, CAMERAS))
    (answer,) = run_exported(ids, pictures(), tmp_path / "ids.onnx")
    assert answer.dtype == np.int64
    assert len(np.unique(answer)) > 3
    np.testing.assert_array_equal(answer, ids(*pictures()).numpy())


@pytest.mark.parametrize("top_k", [1, 2])
def test_mixture_of_experts_falls_back_to_the_dense_sum(top_k, tmp_path):
    torch.manual_seed(0)
    mixture = MixtureFeedForward(16, 32, MoeConfig(experts=4, top_k=top_k), residual_std=0.3).eval()
    x = torch.randn(2, 9, 16)
    (answer,) = run_exported(mixture, (x,), tmp_path / "moe.onnx")
    assert not mixture.dense  # the module itself keeps its sparse sum
    torch.testing.assert_close(torch.from_numpy(answer), mixture(x), **CLOSE)


def test_cross_modal_policy_has_the_policys_inputs_and_outputs(tmp_path, tiny):
    from vla_ros.export import ExportedPolicy

    torch.manual_seed(0)
    policy = CrossModalPolicy(tiny.config(depth=4, vision_depth=2)).eval()
    inputs = tiny.inputs(policy.config, frames=1, labels=1)
    wrapped = ExportedPolicy(policy)
    ordered = (*inputs["images"].values(), inputs["text_NT"], inputs["proprio_BS"], inputs["prefix_NQ"])
    logits, plan = run_exported(wrapped, ordered, tmp_path / "policy.onnx")
    with torch.inference_mode():
        expected_logits, expected_plan = wrapped(*ordered)
    torch.testing.assert_close(torch.from_numpy(logits), expected_logits, **CLOSE)
    np.testing.assert_array_equal(plan, expected_plan.numpy())
