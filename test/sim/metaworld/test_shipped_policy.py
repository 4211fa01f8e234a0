# SPDX-License-Identifier: Apache-2.0
"""The bundle that ships: what it is shown, how large it is, and that it does what it is told where nearly every policy can."""

from __future__ import annotations

import pytest

pytest.importorskip("metaworld")

from vla_ros.closed_loop import EpisodeSpec, load_closed_loop  # noqa: E402
from vla_ros.core.embodiment import METAWORLD  # noqa: E402
from vla_ros.core.paths import bundle_dir  # noqa: E402
from vla_ros.direct_loop import DirectLoop  # noqa: E402
from vla_ros.runtime.bundle import load_bundle  # noqa: E402

EASY = ("button-press-topdown-v3", "drawer-close-v3", "drawer-open-v3", "handle-press-v3", "window-open-v3")
SEED = 4321  # of no demonstration: those begin at ten million


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(bundle_dir("metaworld-mt50"))


def test_it_sees_one_picture_its_own_hand_and_words(bundle):
    manifest = bundle.manifest
    assert manifest.robot == METAWORLD.robot and [camera.name for camera in manifest.cameras] == ["corner2"]
    assert [spec.name for spec in manifest.proprio] == ["tool_x", "tool_y", "tool_z", "gripper_joint"]
    sources = manifest.provenance["data"]["sources"]
    assert sources and all(source["first_seed"] >= 10_000_000 for source in sources)


def test_it_is_small(bundle):
    assert sum(path.stat().st_size for path in bundle.directory.iterdir()) < 60e6


def test_it_does_easy_tasks(bundle):
    """Each alone could fail on another processor's rounding; two of five would not."""
    done = []
    for task in EASY:
        loop = load_closed_loop(str(bundle.directory), simulator=f"{METAWORLD.name}:{task}", make_loop=DirectLoop)
        done.append(loop.run(EpisodeSpec(seed=SEED, family=task, split="seen")).success)
    assert sum(done) >= 4, dict(zip(EASY, done))
