# SPDX-License-Identifier: Apache-2.0
"""A tiny randomly initialised ACT checkpoint in LeRobot's names, and what PyTorch's own modules compute from it (arXiv 2304.13705)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, HIDDEN, HORIZON, STATE, DIMS, LATENT = 32, 4, 48, 6, 7, 7, 8
IMAGES = {"observation.images.front": (3, 45, 60), "observation.images.wrist_cam": (3, 33, 33)}


class BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if hasattr(self, "downsample") else x))


class Backbone(nn.Module):
    """resnet18 with 8 channels in its first stage, or the first blocks of a bottleneck network."""

    def __init__(self, kind: str, dilated: bool) -> None:
        super().__init__()
        width, counts = 8, (2, 2, 2, 2) if kind == "resnet18" else (3, 4, 6, 3)
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(counts):
            blocks = []
            for index in range(count):
                is_wide = dilated and stage == 3
                stride = 2 if stage and not index and not is_wide else 1
                if kind == "resnet18":
                    blocks.append(BasicBlock(channels, width << stage, stride))
                    channels = width << stage
                else:
                    blocks.append(Bottleneck(channels, width << stage, stride, 2 if is_wide and index else 1))
                    channels = 4 * (width << stage)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Layer(nn.Module):
    def __init__(self, crosses: bool, pre_norm: bool, activation: str) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS)
        if crosses:
            self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.linear1, self.linear2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        for index in range(3 if crosses else 2):
            setattr(self, f"norm{index + 1}", nn.LayerNorm(WIDTH))
        self.crosses, self.pre_norm, self.activation = crosses, pre_norm, getattr(F, activation)

    def forward(self, x: Tensor, pos: Tensor, memory: Tensor | None = None, memory_pos: Tensor | None = None) -> Tensor:
        """[T, 1, E]."""
        steps = [lambda y: self.self_attn(y + pos, y + pos, value=y)[0]]
        if self.crosses:
            steps.append(lambda y: self.multihead_attn(y + pos, memory + memory_pos, value=memory)[0])
        steps.append(lambda y: self.linear2(self.activation(self.linear1(y))))
        for index, step in enumerate(steps):
            norm = getattr(self, f"norm{index + 1}")
            x = x + step(norm(x)) if self.pre_norm else norm(x + step(x))
        return x


class Stack(nn.Module):
    def __init__(self, count: int, crosses: bool, norm: bool, **kind: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(crosses, **kind) for _ in range(count))
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *others)
        return self.norm(x)


class Act(nn.Module):
    """The network for inference, and the parts that only training uses."""

    def __init__(
        self, pre_norm: bool = False, activation: str = "relu", backbone: str = "resnet18", dilated: bool = False, state: int = STATE
    ) -> None:
        super().__init__()
        kind = {"pre_norm": pre_norm, "activation": activation}
        self.backbone = Backbone(backbone, dilated)
        self.encoder, self.decoder = Stack(2, False, pre_norm, **kind), Stack(1, True, True, **kind)
        if state:
            self.encoder_robot_state_input_proj = nn.Linear(state, WIDTH)
        self.encoder_latent_input_proj = nn.Linear(LATENT, WIDTH)
        self.encoder_img_feat_input_proj = nn.Conv2d(self.backbone.channels, WIDTH, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + bool(state), WIDTH)
        self.decoder_pos_embed = nn.Embedding(HORIZON, WIDTH)
        self.action_head = nn.Linear(WIDTH, DIMS)
        self.vae_encoder = Stack(1, False, False, **kind)
        self.vae_encoder_cls_embed = nn.Embedding(1, WIDTH)
        self.register_buffer("vae_encoder_pos_enc", torch.zeros(1, HORIZON + 2, WIDTH))

    def forward(self, images: list[Tensor], state_1S: Tensor | None) -> Tensor:
        """Normalised pictures [1, 3, H, W] and state to normalised actions [1, H, D]."""
        tokens = [self.encoder_latent_input_proj(torch.zeros(1, LATENT))]
        if state_1S is not None:
            tokens.append(self.encoder_robot_state_input_proj(state_1S))
        positions = list(self.encoder_1d_feature_pos_embed.weight[:, None])
        for image in images:
            features = self.backbone(image)
            table = sine_table(*features.shape[-2:])
            tokens += list(self.encoder_img_feat_input_proj(features).flatten(2).permute(2, 0, 1))
            positions += list(table[:, None])
        memory_positions = torch.stack(positions)
        memory = self.encoder(torch.stack(tokens), memory_positions)
        asked = self.decoder_pos_embed.weight[:, None]
        return self.action_head(self.decoder(torch.zeros(HORIZON, 1, WIDTH), asked, memory, memory_positions).transpose(0, 1))


def sine_table(rows: int, columns: int) -> Tensor:
    """DETR's table, one place after another, [rows * columns, E]."""
    half = WIDTH // 2
    table = np.zeros((rows * columns, WIDTH), np.float32)
    for row in range(rows):
        for column in range(columns):
            for side, (index, count) in enumerate(((row, rows), (column, columns))):
                angle = (index + 1) / (count + 1e-6) * 2 * math.pi
                for k in range(half):
                    turn = angle / 10000 ** (2 * (k // 2) / half)
                    table[row * columns + column, side * half + k] = math.cos(turn) if k % 2 else math.sin(turn)
    return torch.from_numpy(table)


def make_model(seed: int = 0, **kind: Any) -> Act:
    """Random weights and batch-norm statistics."""
    torch.manual_seed(seed)
    model = Act(**kind).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3)
    for name, parameter in model.named_parameters():
        if "norm" in name or ".bn" in name or "downsample.1" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    nn.init.normal_(model.action_head.bias, 0.0, 0.5)
    nn.init.normal_(model.encoder_latent_input_proj.bias, 0.0, 0.5)
    return model


def statistics(seed: int = 3) -> dict[str, dict[str, Tensor]]:
    """In degrees; the last joint of the state never moved."""
    rng = np.random.default_rng(seed)
    table: dict[str, dict[str, Tensor]] = {}
    for name, size in (("observation.state", STATE), ("action", DIMS)):
        low, high = -rng.uniform(20, 60, size), rng.uniform(20, 60, size)
        table[name] = {"mean": (low + high) / 2 + 3, "std": (high - low) / 4, "min": low, "max": high, "q01": low + 2, "q99": high - 2}
    table["observation.state"]["std"][-1] = 0.0
    table["observation.state"]["mean"][-1] = 11.5
    for name in IMAGES:
        table[name] = {"mean": np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1), "std": np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)}
        table[name] |= {"min": np.zeros((3, 1, 1)), "max": np.full((3, 1, 1), 0.9)}
    return {name: {kind: torch.tensor(value, dtype=torch.float32) for kind, value in entry.items()} for name, entry in table.items()}


def normalize(value: Tensor, stats: dict[str, Tensor], mode: str) -> Tensor:
    """As LeRobot does."""
    if mode == "MEAN_STD":
        return (value - stats["mean"]) / (stats["std"] + 1e-8)
    if mode == "IDENTITY":
        return value
    low, high = (stats[kind] for kind in (("min", "max") if mode == "MIN_MAX" else ("q01", "q99")))
    return 2 * (value - low) / (high - low) - 1


def unnormalize(value: Tensor, stats: dict[str, Tensor], mode: str) -> Tensor:
    """As LeRobot does."""
    if mode == "MEAN_STD":
        return value * stats["std"] + stats["mean"]
    if mode == "IDENTITY":
        return value
    low, high = (stats[kind] for kind in (("min", "max") if mode == "MIN_MAX" else ("q01", "q99")))
    return (value + 1) / 2 * (high - low) + low


MODES = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}


def make_checkpoint(folder: Path, model: Act, *, layout: str = "processors", modes: dict[str, str] | None = None, **changes: Any) -> Path:
    """Writes the folder; ``layout`` says where the statistics lie: ``processors`` or ``buffers``."""
    folder.mkdir(parents=True, exist_ok=True)
    table = statistics()
    state = {f"model.{name}": value.clone().contiguous() for name, value in model.state_dict().items()}
    inputs = {name: {"type": "VISUAL", "shape": list(shape)} for name, shape in IMAGES.items()}
    if hasattr(model, "encoder_robot_state_input_proj"):
        inputs["observation.state"] = {"type": "STATE", "shape": [STATE]}
    modes = MODES if modes is None else modes
    if layout == "buffers":
        for name, entry in table.items():
            key = name.replace(".", "_")
            prefix = "unnormalize_outputs.buffer_" if name == "action" else "normalize_inputs.buffer_"
            state |= {f"{prefix}{key}.{kind}": value for kind, value in entry.items() if kind[0] != "q"}
        state |= {f"normalize_targets.buffer_action.{kind}": value.clone() for kind, value in table["action"].items() if kind[0] != "q"}
    else:
        _write_processors(folder, table)
    save_file(state, folder / "model.safetensors")
    config = {
        "type": "act", "n_obs_steps": 1, "chunk_size": HORIZON, "n_action_steps": HORIZON, "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [DIMS]}}, "normalization_mapping": modes, "vision_backbone": "resnet18",
        "replace_final_stride_with_dilation": False, "pre_norm": False, "dim_model": WIDTH, "n_heads": HEADS, "dim_feedforward": HIDDEN,
        "feedforward_activation": "relu", "n_encoder_layers": 2, "n_decoder_layers": 1, "use_vae": True, "latent_dim": LATENT, "dropout": 0.1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def _write_processors(folder: Path, table: dict[str, dict[str, Tensor]]) -> None:
    flat = {f"{name}.{kind}": value for name, entry in table.items() for kind, value in entry.items()}
    files = {"policy_preprocessor": (3, "normalizer_processor"), "policy_postprocessor": (0, "unnormalizer_processor")}
    for name, (index, step) in files.items():
        state_file = f"{name}_step_{index}_{step}.safetensors"
        save_file(flat, folder / state_file)
        plain = ["rename_observations_processor", "to_batch_processor", "device_processor"][:index]
        steps = [{"registry_name": other, "config": {}} for other in plain]
        steps.append({"registry_name": step, "config": {"eps": 1e-8}, "state_file": state_file})
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))


@torch.no_grad()
def expected(model: Act, images: dict[str, np.ndarray], state_S: np.ndarray | None, modes: dict[str, str] | None = None) -> np.ndarray:
    """Actions [H, D] in the checkpoint's units."""
    table, modes = statistics(), MODES if modes is None else modes
    pixels = [torch.from_numpy(images[name]).permute(2, 0, 1)[None].float() / 255.0 for name in IMAGES]
    pixels = [normalize(x, table[name], modes["VISUAL"]) for name, x in zip(IMAGES, pixels)]
    state = None
    if state_S is not None:
        state = normalize(torch.tensor(state_S, dtype=torch.float32)[None], table["observation.state"], modes["STATE"])
    return unnormalize(model(pixels, state)[0], table["action"], modes["ACTION"]).numpy()
