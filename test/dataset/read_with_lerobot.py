# SPDX-License-Identifier: Apache-2.0
"""Run by an interpreter that has `lerobot`: prints as JSON what LeRobotDataset gives for frames of a folder, or writes a dataset of its own.

usage: read_with_lerobot.py read FOLDER FRAME... | write FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll", "gripper")


def read(folder: Path, frames: list[int]) -> dict:
    dataset = LeRobotDataset("local/data", root=folder)
    loader_keys = ("observation.state", "action", "vla.action_chunk", "timestamp", "episode_index", "frame_index")
    found = []
    for index in frames:
        item = dataset[index]
        pictures = {
            name: (255 * item[f"observation.images.{name}"].permute(1, 2, 0).numpy()).round().astype(int).tolist()
            for name in ("front", "wrist")
        }
        found.append({key: item[key].tolist() for key in loader_keys} | {"task": item["task"], "pictures": pictures})
    stats = {key: np.asarray(value).tolist() for key, value in dataset.meta.stats["observation.state"].items()}
    return {
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "robot": dataset.meta.robot_type,
        "items": found,
        "stats": stats,
    }


def write(folder: Path) -> dict:
    """Two episodes of a robot like LeRobot's own: degrees, a gripper in percent, 10 frames a second."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (7,), "names": [f"{joint}.pos" for joint in JOINTS]},
        "action": {"dtype": "float32", "shape": (7,), "names": [f"{joint}.pos" for joint in JOINTS]},
        "observation.images.top": {"dtype": "video", "shape": (96, 128, 3), "names": ["height", "width", "channels"]},
        "observation.images.hand": {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    }
    dataset = LeRobotDataset.create("local/data", fps=10, features=features, root=folder, robot_type="arm", vcodec="h264")
    for episode in range(2):
        for frame in range(11):
            state = np.array([2.0 * frame, 0, 60, 0, 60, 0, 100 if frame < 8 else 0], dtype=np.float32)
            pictures = {"top": np.full((96, 128, 3), 20 * frame, np.uint8), "hand": np.full((64, 64, 3), 10 * frame, np.uint8)}
            dataset.add_frame(
                {"observation.state": state, "action": state, "task": f"do thing {episode}"}
                | {f"observation.images.{k}": v for k, v in pictures.items()}
            )
        dataset.save_episode()
    dataset.finalize()
    return {"frames": 22}


if __name__ == "__main__":
    verb, where, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(read(Path(where), [int(index) for index in rest]) if verb == "read" else write(Path(where))))
