# SPDX-License-Identifier: Apache-2.0
"""Small made-up datasets that obey the data contract, for tests and trials: coloured squares on a grey table; go to one of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from vla_ros.core.tabletop import ACTION_SPEC

COLOURS = ("red", "green", "blue")
KINDS = ("cube", "bowl")
PHASES = ("approach", "grasp", "done")
_RGB = np.array([[210, 40, 40], [40, 190, 60], [50, 70, 220]], dtype=np.uint8)


def write_dataset(folder: Path, *, shards: int = 1, episodes: int = 8, frames: int = 4, labels: int = 3, seed: int = 0) -> Path:
    """Writes meta.yaml and `shards` shards of `episodes` episodes of `frames` frames; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "format_version": 2,
        "K": labels,
        "M": len(COLOURS),
        "phases": list(PHASES),
        "colours": list(COLOURS),
        "kinds": list(KINDS),
        "plan": {"low": [0.1, -0.3], "high": [0.6, 0.3], "unit": "m", "frame": "base_link"},
        "action": ACTION_SPEC.to_dict(),
        "seeds": [seed],
    }
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta), encoding="utf-8")
    for index in range(shards):
        write_shard(folder / f"shard_{index:04d}", np.random.default_rng([seed, index]), index * episodes, episodes, frames, labels)
    return folder


def write_shard(path: Path, rng: np.random.Generator, first_episode: int, episodes: int, frames: int, labels: int) -> None:
    """One shard: an object of each colour per frame; label k names colour k modulo 3 and moves the tool to its place."""
    path.mkdir()
    count = episodes * frames
    uv_NM2 = rng.uniform(0.05, 0.95, (count, len(COLOURS), 2)).astype(np.float32)
    place_NM2 = np.stack([0.1 + 0.5 * uv_NM2[..., 1], -0.3 + 0.6 * uv_NM2[..., 0]], axis=-1)
    tool_N4 = np.tile(np.array([0.35, 0.0, 0.15, 0.0], dtype=np.float32), (count, 1)) + rng.uniform(-0.05, 0.05, (count, 4)).astype(np.float32)
    colour_K = np.arange(labels) % len(COLOURS)
    actions = np.zeros((count, labels, *ACTION_SPEC.shape))
    actions[..., 1:3] = (place_NM2[:, colour_K] - tool_N4[:, None, :2])[:, :, None] * np.linspace(0.2, 1, ACTION_SPEC.horizon)[:, None]
    actions[..., 5] = 0.042 * (colour_K % 2)[None, :, None]
    point = place_NM2[:, colour_K]
    phase = np.broadcast_to((colour_K % len(PHASES))[None, :, None], (count, labels, 1))
    arrays = {
        "front": _pictures(uv_NM2, 128),
        "wrist": _pictures(uv_NM2, 64),
        "proprio": np.concatenate([rng.uniform(-1, 1, (count, 7)), tool_N4], axis=1).astype(np.float32),
        "touch": (10.0 * (np.arange(count)[:, None] % 2) * np.ones(2)).astype(np.float32),
        "text_index": np.tile(colour_K.astype(np.int32), (count, 1)),
        "actions": ACTION_SPEC.clip(actions).astype(np.float32),
        "committed": rng.integers(0, 3, (count, labels)).astype(np.int8),
        "plan": np.concatenate([phase, point], axis=-1).astype(np.float32),
        "object_uv": uv_NM2,
        "object_class": np.tile(np.array([[0, 0], [1, 1], [2, 0]], dtype=np.int16), (count, 1, 1)),
        "episode": (first_episode + np.repeat(np.arange(episodes), frames)).astype(np.int32),
        "frame": np.tile(np.arange(frames), episodes).astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    texts = [f"go to the {colour} thing" for colour in COLOURS]
    (path / "instructions.json").write_text(json.dumps(texts), encoding="utf-8")


def _pictures(uv_NM2: np.ndarray, size: int) -> np.ndarray:
    picture_NHWC = np.full((len(uv_NM2), size, size, 3), 110, dtype=np.uint8)
    half = size // 16
    for picture_HWC, uv_M2 in zip(picture_NHWC, uv_NM2):
        for rgb, (u, v) in zip(_RGB, uv_M2):
            column, row = int(u * size), int(v * size)
            picture_HWC[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = rgb
    return picture_NHWC


def write_questions(folder: Path, *, pictures: int = 32, seed: int = 0) -> Path:
    """Writes a question dataset of one shard: one coloured square per picture, whose colour and side are asked for; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    meta = {"format_version": 2, "content": "questions", "K": 2, "kinds": ["colour", "where"], "objects": [f"{c} {k}" for c in COLOURS for k in KINDS], "first_seed": seed}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta), encoding="utf-8")
    texts = {"questions": ["what colour is it?", "where is it?"], "answers": [*COLOURS, "on the left", "on the right"]}
    (folder / "texts.txt").write_text("\n".join(text for part in texts.values() for text in part) + "\n", encoding="utf-8")
    colour_N, right_N = rng.integers(0, len(COLOURS), pictures), rng.integers(0, 2, pictures)
    uv_NM2 = np.full((pictures, len(COLOURS), 2), -1.0)  # outside the picture
    uv_NM2[np.arange(pictures), colour_N] = np.stack([0.25 + 0.5 * right_N, rng.uniform(0.2, 0.8, pictures)], axis=1)
    place_NR2 = np.full((pictures, len(COLOURS) * len(KINDS), 2), np.nan, dtype=np.float32)
    place_NR2[np.arange(pictures), colour_N * len(KINDS)] = uv_NM2[np.arange(pictures), colour_N]
    shard = folder / "shard_0000"
    shard.mkdir()
    question_N2 = np.tile([0, 1], (pictures, 1))
    arrays = {
        "front": _pictures(uv_NM2, 128),
        "question": question_N2.astype(np.int32),
        "answer": np.stack([colour_N, len(COLOURS) + right_N], axis=1).astype(np.int32),
        "kind": question_N2.astype(np.int32),
        "place": place_NR2,
        "tool": np.tile(np.float32([0.5, 0.5, 0.1, 0.02]), (pictures, 1)),
        "episode": np.arange(pictures, dtype=np.int32),
    }
    for name, array in arrays.items():
        np.save(shard / f"{name}.npy", array)
    (shard / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder
