# SPDX-License-Identifier: Apache-2.0
"""The policy drives, the expert labels: with the bundle that ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from vla_ros.core.errors import DecodeError
from vla_ros.core.tabletop import ACTION_SPEC, CAMERAS
from vla_ros.corrections import CorrectionRecorder, main
from vla_ros.sim.tasks import is_held_out, parse_task

SEED = 60_000_007


@pytest.fixture(scope="module")
def recorder():
    recorder = CorrectionRecorder("tabletop", 3)
    yield recorder
    recorder.env.close()


def test_every_state_that_the_policy_asks_about_is_labelled(recorder):
    asked = []
    infer = recorder._policy.infer
    recorder._policy.infer = lambda observation, prefix: (asked.append(observation), infer(observation, prefix))[1]
    try:
        frames = list(recorder.episode(SEED))
    finally:
        del recorder._policy.infer
    assert len(frames) == len(asked) > 5 and len(recorder.successes) == 1
    for frame, observation in zip(frames, asked):
        for camera in CAMERAS:
            np.testing.assert_array_equal(frame[camera.name], observation.images[camera.name])
        np.testing.assert_allclose(frame["proprio"][:7], observation.joint_positions, atol=1e-6)
        assert len(frame["texts"]) == 3 and frame["committed"].shape == (3,)
        for chunk in frame["actions"]:
            ACTION_SPEC.validate(np.clip(chunk.astype(np.float64), ACTION_SPEC.low_D, ACTION_SPEC.high_D))
        assert not any(is_held_out(parse_task(text)) for text in frame["texts"])


def test_the_first_label_is_what_the_policy_was_told(recorder):
    frames = list(recorder.episode(SEED + 1))
    told = parse_task(recorder.env.instruction)
    assert {parse_task(frame["texts"][0]) for frame in frames} == {told}


def test_the_state_in_which_a_policy_fails_is_kept(recorder):
    def infer(observation, prefix):
        raise DecodeError("no action")

    recorder._policy.infer = infer
    try:
        frames = list(recorder.episode(SEED + 2))
    finally:
        del recorder._policy.infer
    assert frames and recorder.successes[-1] is False


def test_seeds_of_other_data_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["tabletop", "--out", "nowhere", "--seed", "10000000"])
    assert "60000000" in capsys.readouterr().err


@pytest.fixture(scope="module")
def coached():
    recorder = CorrectionRecorder("tabletop", 3, coached=True, drive=["stack"])
    yield recorder
    recorder.env.close()


def test_an_episode_goes_on_where_the_policy_says_done_and_is_not(coached):
    """A policy that always says so: the expert does the work between its claims."""
    infer, asked = coached._policy.infer, []

    def done(observation, prefix):
        chunk = infer(observation, prefix)
        asked.append(observation)
        return replace(chunk, terminate_H=np.ones(len(chunk.terminate_H), dtype=bool))

    coached._policy.infer = done
    try:
        frames = list(coached.episode(SEED + 3))
    finally:
        del coached._policy.infer
    assert coached.successes[-1] is True
    assert parse_task(coached.env.instruction).family == "stack"
    assert len(frames) > len(asked) > 1  # those in which the expert leads are kept too
    assert {parse_task(frame["texts"][0]).family for frame in frames} == {"stack"}


def test_the_expert_helps_a_policy_that_stands_still(coached):
    infer = coached._policy.infer

    def rest(observation, prefix):
        chunk = infer(observation, prefix)
        here = np.repeat(observation.joint_positions[None, : chunk.joint_positions_HJ.shape[1]], len(chunk.joint_positions_HJ), axis=0)
        return replace(chunk, joint_positions_HJ=here, terminate_H=np.zeros(len(here), dtype=bool))

    coached._policy.infer = rest
    try:
        frames = list(coached.episode(SEED + 4))
    finally:
        del coached._policy.infer
    tools = np.array([frame["proprio"][7:10] for frame in frames])
    assert np.linalg.norm(tools - tools[0], axis=1).max() > 0.05
