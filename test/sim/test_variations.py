# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.layout import draw_layout, draw_look
from vla_ros.sim.patterns import PATTERNS
from vla_ros.sim.scene import BLOCK_KINDS
from vla_ros.sim.variations import LIGHT, NONE, TEXTURES, VARIATIONS, is_unseen_place, vary_layout, vary_look

SEEDS = range(20)


@pytest.fixture(scope="module")
def env():
    environment = TabletopEnv()
    yield environment
    environment.close()


@pytest.mark.parametrize("seed", range(5))
def test_without_a_variation_a_seed_gives_the_scene_that_it_always_gave(seed):
    rngs = [np.random.default_rng([seed, 0]) for _ in range(2)]
    plain, varied = draw_layout(rngs[0]), vary_layout(rngs[1], NONE)
    assert plain == varied
    refs = [placement.ref for placement in plain]
    looks = [draw_look(rngs[0], refs, 1.0), vary_look(rngs[1], refs, 1.0, NONE)]
    for name in ("table", "floor", "light_position", "camera_turn"):
        assert np.array_equal(*(getattr(look, name) for look in looks))
    assert rngs[0].random() == rngs[1].random() and looks[1].pattern is None


def test_blocks_lie_where_demonstrations_never_lay_one():
    known = [p for seed in range(60) for p in draw_layout(np.random.default_rng(seed)) if p.ref.kind in BLOCK_KINDS]
    assert not any(is_unseen_place(p.ref, p.x, p.y) for p in known)
    for seed in SEEDS:
        blocks = [p for p in vary_layout(np.random.default_rng(seed), "positions") if p.ref.kind in BLOCK_KINDS]
        assert len(blocks) >= 3 and all(is_unseen_place(p.ref, p.x, p.y) for p in blocks)


def test_a_crowd_has_more_blocks_than_any_demonstration():
    for seed in SEEDS:
        count = [sum(p.ref.kind in BLOCK_KINDS for p in vary_layout(np.random.default_rng(seed), v)) for v in (NONE, "distractors")]
        assert count[0] in (3, 4) and count[1] == 6


def test_light_and_surfaces_lie_outside_what_is_drawn_in_training():
    known = [draw_look(np.random.default_rng(seed), [], 1.0) for seed in range(300)]
    spreads = {name: np.abs(np.array([getattr(look, name) for look in known]) - np.array(getattr(draw_look(np.random.default_rng(0), [], 0.0), name))).max() for name in ("light_position", "light_strength", "ambient", "table", "floor")}
    nominal = draw_look(np.random.default_rng(0), [], 0.0)
    for seed in SEEDS:
        light, surface = (vary_look(np.random.default_rng(seed), [], 1.0, variation) for variation in (LIGHT, TEXTURES))
        for name in ("light_strength", "ambient"):
            assert abs(getattr(light, name) - getattr(nominal, name)) > spreads[name], name
        assert np.abs(light.light_position[:2] - nominal.light_position[:2]).min() > spreads["light_position"]
        for name in ("table", "floor"):
            assert np.abs(getattr(surface, name) - getattr(nominal, name)).max() > spreads[name], name
        assert surface.pattern in PATTERNS and light.pattern is None


def test_every_variation_has_tasks_of_every_family_and_leaves_no_trace(env):
    env.reset(3, settle=False)
    before = env.render("front")
    pictures = {}
    for variation in VARIATIONS:
        for family in ("reach", "push", "put", "stack"):
            env.reset(3, family=family, settle=False, variation=variation)
            assert env.task.family == family, variation
        pictures[variation] = env.render("front")
    env.reset(3, settle=False)
    assert np.array_equal(env.render("front"), before)
    for variation in (LIGHT, TEXTURES):
        assert np.abs(pictures[variation].astype(int) - pictures[NONE]).mean() > 5, variation


def test_an_unknown_variation_is_refused(env):
    with pytest.raises(ValueError, match="variation is 'fog': valid are none, positions"):
        env.reset(0, variation="fog")
