# SPDX-License-Identifier: Apache-2.0
"""ament_python package: `colcon build` in a ROS 2 workspace, `pip install ".[cpu,sim,ros]"` without ROS."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "vla_ros"
ROOT = Path(__file__).resolve().parent

EXTRAS = {
    # One of cpu and gpu: both wheels own the same module `onnxruntime` and overwrite each other.
    "cpu": ["onnxruntime>=1.23"],
    "gpu": ["onnxruntime-gpu[cuda,cudnn]>=1.23"],
    "sim": ["mujoco>=3.3", "av>=14"],
    # Jazzy as wheels. Exact, because helper packages of another distribution do not mix with these.
    "ros": ["ros-rclpy[fastrtps]==7.1.6", "ros-common-interfaces==5.3.6"],
    # Gazebo's own transports, without ROS or Gazebo's Python modules.
    "gazebo": ["pyzmq>=26", "protobuf>=5"],
    # Recordings: written as MCAP, read without ROS.
    "record": ["mcap>=1.2", "mcap-ros2-support>=0.5.5"],
    # LeRobotDataset v3, and recordings of robots.
    "dataset": ["pyarrow>=20", "av>=14", "mcap>=1.2", "mcap-ros2-support>=0.5.5"],
    # Meta-World's tasks and experts. Later versions are tied to one MuJoCo that is not ours.
    "metaworld": ["metaworld>=3.0,<3.1", "packaging"],
    "train": ["torch>=2.9", "onnx>=1.18", "onnxscript>=0.5"],
    # Checkpoints of other projects, read as safetensors. The tests compare with transformers; timm would bring torchvision and is not asked for.
    "import": ["torch>=2.9", "onnx>=1.18", "onnxscript>=0.5", "safetensors>=0.5"],
    "tensorboard": ["tensorboard>=2.18"],  # for `vla train --tensorboard`
    "test": ["pytest>=8", "pytest-timeout", "hypothesis>=6.100", "ruff", "transformers>=5.10", "websockets>=14"],
}
EXTRAS["all"] = sorted({item for name, extra in EXTRAS.items() if name not in ("gpu", "tensorboard") for item in extra})


def version() -> str:
    """The version that `vla_ros/__init__.py` names."""
    text = (ROOT / NAME / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def shared_files(*folders: str) -> list[tuple[str, list[str]]]:
    """data_files entries that keep each folder's tree below share/vla_ros."""
    entries: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in relative.parts):
                entries.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return sorted(entries.items())


setup(
    name=NAME,
    version=version(),
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed", "ros/console/page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared_files("config", "launch", "models"),
    ],
    python_requires=">=3.10,<3.13",
    install_requires=[
        "setuptools",
        "numpy>=1.26",
        "pyyaml>=6",
        "pin>=3",
        "ruckig>=0.14",
        "tokenizers>=0.20",
        "opencv-python-headless>=4.9",
        "tqdm",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    zip_safe=True,
    maintainer="vla_ros maintainers",
    maintainer_email="maintainers@example.com",
    description="Vision-language-action policies for ROS 2: a robot that follows a typed instruction.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "vla = vla_ros.cli:main",
            "vla_policy = vla_ros.cli:policy_main",
            "vla_sim = vla_ros.cli:sim_main",
        ],
    },
)
