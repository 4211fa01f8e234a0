# SPDX-License-Identifier: Apache-2.0
"""The evaluation's figures against known values, its episodes, and the closed loop with scripted policies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros import evaluate
from vla_ros.closed_loop import POLICY_DONE, SUCCESS, TIME_LIMIT, ClosedLoop, EpisodeResult, EpisodeSpec
from vla_ros.core.chunk import ActionChunk
from vla_ros.core.errors import DecodeError
from vla_ros.core.tabletop import CAMERAS
from vla_ros.figures import percentiles, success_summary, wilson_interval
from vla_ros.runtime.bundle import load_bundle


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Brown, Cai and DasGupta 2001; R: binom::binom.wilson
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_the_published_values(successes: int, trials: int, low: float, high: float):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_rate_and_stays_in_0_1(counts: tuple[int, int]):
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_their_equation(counts: tuple[int, int]):
    """The bounds are the p at which (p̂ − p)² = z² p (1 − p) / n."""
    successes, trials = counts
    for bound in wilson_interval(successes, trials):
        residual = (successes / trials - bound) ** 2 - 1.959963984540054**2 * bound * (1 - bound) / trials
        assert residual == pytest.approx(0, abs=1e-12)


def test_nothing_tried_is_nothing_known():
    assert success_summary([]) == {"success_rate": None, "ci95": [0.0, 1.0], "n": 0}


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(counts: tuple[int, int]):
    with pytest.raises(ValueError):
        wilson_interval(*counts)


def test_percentiles_are_measured_values():
    found = percentiles(list(range(1, 1001)))
    assert (found["p50"], found["max"], found["n"]) == (501, 1000, 1000)
    assert found["p99"] in (990, 991) and found["p999"] in (999, 1000)
    assert percentiles([3.0])["p999"] == 3.0


def test_families_are_dealt_in_turn():
    specs = evaluate.plan_episodes(11, 0, 0, "seen")
    counts = {family: sum(spec.family == family for spec in specs) for family in evaluate.FAMILIES}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_families_are_those_of_the_simulator():
    tasks = pytest.importorskip("vla_ros.sim.tasks")
    variations = pytest.importorskip("vla_ros.sim.variations")
    assert set(evaluate.FAMILIES) == set(tasks.FAMILIES) and evaluate.NEW_FAMILIES == tasks.NEW_FAMILIES and evaluate.VARIATIONS == variations.VARIATIONS
    assert evaluate.SPLITS == (*tasks.SPLITS, *tasks.PARTLY_UNSEEN)


def test_a_new_family_and_a_variation_are_dealt_only_when_asked_for():
    plain, varied = evaluate.plan_episodes(3, 1, 2, "seen"), evaluate.plan_episodes(3, 1, 2, "phrasings", ("front",), "light")
    assert {spec.variation for spec in plain} == {"none"} and not {spec.family for spec in plain} & set(evaluate.NEW_FAMILIES)
    assert {(spec.family, spec.split, spec.variation) for spec in varied} == {("front", "phrasings", "light")}
    assert [spec.seed for spec in plain] == [spec.seed for spec in varied]
    for words in (["--variation", "light", "--ros"], ["--families", "front", "--sim", "gazebo"], ["--variation", "fog"]):
        with pytest.raises(SystemExit):
            evaluate.parse(["expert", *words])


def test_no_scene_is_played_twice_or_seen_in_training():
    collect = pytest.importorskip("vla_ros.sim.collect")
    seen: set[int] = set()
    for seed in (0, 1, evaluate.MAX_SEED):
        scenes = {spec.seed for spec in evaluate.plan_episodes(500, 500, seed, "seen")}
        assert len(scenes) == 1_000 and not scenes & seen
        seen |= scenes
    assert max(seen) < collect.FIRST_TRAINING_SEED


def test_asking_for_pairs_does_not_change_the_single_episodes():
    assert evaluate.plan_episodes(7, 3, 4, "unseen")[:7] == evaluate.plan_episodes(7, 0, 4, "unseen")


def result(spec: EpisodeSpec, success: bool) -> EpisodeResult:
    reason = SUCCESS if success else TIME_LIMIT
    return EpisodeResult(
        spec=spec, family=spec.family, instruction="x", success=success, reason=reason, steps=100, seconds=2.0, inferences=9,
        inference_ms=30.0, rejected=0,
    )  # fmt: skip


def test_a_pair_counts_only_when_both_are_right():
    specs = evaluate.plan_episodes(0, 3, 0, "seen")
    outcomes = [True, True, True, False, False, False]
    summary = evaluate.summarize_pairs([result(spec, ok) for spec, ok in zip(specs, outcomes, strict=True)])
    assert summary["n"] == 3 and summary["success_rate"] == pytest.approx(1 / 3, abs=1e-4)


def test_half_a_pair_is_left_out():
    specs = evaluate.plan_episodes(0, 2, 0, "seen")
    assert evaluate.summarize_pairs([result(spec, True) for spec in specs[:3]])["n"] == 1


def test_the_report_has_the_promised_keys(still_bundle):
    options = evaluate.parse([str(still_bundle), "--episodes", "10", "--pairs", "1"])
    specs = evaluate.plan_episodes(10, 1, 0, "seen")
    report = evaluate.summarize([result(spec, spec.seed % 2 == 0) for spec in specs], bundle=load_bundle(still_bundle), options=options)
    assert set(report) >= {"success_rate", "ci95", "episodes", "by_task", "split", "mean_steps", "bundle_sha256", "pairs"}
    assert (report["success_rate"], report["episodes"], report["mean_steps"]) == (0.5, 10, 100)
    assert report["by_task"]["push"].keys() >= {"success_rate", "n", "ci95"}
    assert sum(row["n"] for row in report["by_task"].values()) == 10
    assert report["failures"] == {TIME_LIMIT: 5}


@pytest.mark.parametrize("arguments", [["--seed", "10000"], ["--seed", "-1"], ["--episodes", "0"], ["--workers", "0"], ["--split", "test"]])
def test_impossible_options_are_wrong_use(arguments: list[str]):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse(["bundle", *arguments])
    assert stop.value.code == 2


# ---- the closed loop, with policies that need no network ----

H, DT_NS = 5, 200_000_000


def chunk_towards(target_J: np.ndarray, observation, done: bool = False) -> ActionChunk:
    """Waypoints on the straight way to the target, at a speed that every joint can do."""
    start_J = observation.joint_positions
    ways_HJ = np.clip(target_J - start_J, -0.08, 0.08) * np.arange(1, H + 1)[:, None]
    rest_J = target_J - start_J
    ways_HJ = np.where(np.abs(ways_HJ) > np.abs(rest_J), rest_J, ways_HJ)
    return ActionChunk(
        obs_stamp_ns=observation.stamp_ns,
        generation=observation.generation,
        dt_ns=DT_NS,
        actions_HD=np.zeros((H, 6)),
        tokens_HD=np.zeros((H, 6), dtype=np.int32),
        confidence_HD=np.ones((H, 6), dtype=np.float32),
        joint_positions_HJ=start_J + ways_HJ,
        terminate_H=np.full(H, done),
    )


class Scripted:
    """Answers every observation by a function of it and remembers the observations."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.seen: list = []
        self.commits: list = []

    def commit(self, observation, reference, until_ns):
        self.commits.append((observation.stamp_ns, reference, until_ns))

    def infer(self, observation, prefix_HD=None):
        self.seen.append(observation)
        return self.answer(observation)


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("mujoco")
    from vla_ros.sim.env import TabletopEnv

    environment = TabletopEnv()
    yield environment
    environment.close()


def play(env, policy, *, family="reach", seed=3, **settings) -> EpisodeResult:
    return ClosedLoop(env=env, policy=policy, cameras=CAMERAS, **settings).run(EpisodeSpec(seed=seed, family=family))


def test_the_policy_is_told_what_goes_on_until_its_answer_arrives(env):
    policy = Scripted(lambda observation: chunk_towards(observation.joint_positions, observation))
    play(env, policy, limit_s=1.0, delay_ms=160.0)
    assert len(policy.commits) == len(policy.seen) > 3
    for stamp_ns, reference, until_ns in policy.commits:
        assert until_ns - stamp_ns == 160_000_000
        assert np.isfinite(reference.sample(until_ns)[0]).all()


def test_a_policy_that_reaches_the_object_succeeds(env):
    from vla_ros.robot import Kinematics

    kinematics = Kinematics(env.robot)

    def towards_the_object(observation):
        above = env.world_state().objects[env.task.obj].position + [0, 0, 0.06]
        start = env.robot.home
        joints = kinematics.ik(above, kinematics.tool_yaw(start), start)
        return chunk_towards(np.append(joints[: len(env.robot.arm_joints)], 0.042), observation)

    outcome = play(env, Scripted(towards_the_object), limit_s=8.0)
    assert outcome.success and outcome.reason == SUCCESS
    assert outcome.steps == round(outcome.seconds / 0.02)


def test_a_policy_that_stays_fails_at_the_limit(env):
    policy = Scripted(lambda o: chunk_towards(env.robot.home, o))
    outcome = play(env, policy, limit_s=1.0)
    assert not outcome.success and outcome.reason == TIME_LIMIT
    assert outcome.seconds == pytest.approx(1.0, abs=0.021)


def test_answers_arrive_after_the_delay_and_not_more_often(env):
    policy = Scripted(lambda o: chunk_towards(env.robot.home, o))
    play(env, policy, limit_s=2.0, delay_ms=130)
    gaps = np.diff([o.stamp_ns for o in policy.seen])
    assert (gaps == 140_000_000).all()  # the first control period at or after 130 ms


def test_a_policy_that_says_done_too_early_fails(env):
    outcome = play(env, Scripted(lambda o: chunk_towards(env.robot.home, o, done=True)), limit_s=8.0)
    assert not outcome.success and outcome.reason == POLICY_DONE


def test_answers_that_are_no_actions_latch_and_fail(env):
    def nonsense(observation):
        raise DecodeError("NaN logits")

    outcome = play(env, Scripted(nonsense), limit_s=5.0)
    assert not outcome.success and outcome.rejected == 3 and "actions" in outcome.reason


def test_the_policy_sees_what_the_manifest_promises(env):
    policy = Scripted(lambda o: chunk_towards(env.robot.home, o))
    outcome = play(env, policy, limit_s=0.3)
    observation = policy.seen[0]
    observation.validate(CAMERAS, 7)
    assert observation.instruction == outcome.instruction
    assert observation.images["front"].std() > 5  # a picture, not a blank


def test_the_halves_of_a_pair_show_the_same_scene_and_ask_for_different_things(env):
    policy = Scripted(lambda o: chunk_towards(env.robot.home, o))
    loop = ClosedLoop(env=env, policy=policy, cameras=CAMERAS, limit_s=0.1)
    for seed, family in ((5, "pick"), (6, "put"), (7, "push")):
        policy.seen.clear()
        one, other = (loop.run(EpisodeSpec(seed=seed, family=family, other_task=half)) for half in (False, True))
        assert one.instruction != other.instruction
        first, second = policy.seen[0], policy.seen[-1]
        assert np.abs(first.images["front"].astype(int) - second.images["front"]).mean() < 0.5
        assert np.array_equal(first.joint_positions, second.joint_positions)


def test_the_same_seed_gives_the_same_episode(env):
    policy = Scripted(lambda o: chunk_towards(env.robot.home, o))
    first, second = (play(env, policy, seed=11, family=None, limit_s=0.1) for _ in range(2))
    assert first.instruction == second.instruction and math.isclose(first.seconds, second.seconds)


# ---- through the real nodes ----


@pytest.mark.parametrize("delay_ms", [0.0, 220.0])
def test_the_expert_succeeds_through_the_loop_however_late_it_answers(tmp_path, delay_ms):
    """The whole chain but the network: tokens, committed steps, chunks, control loop, controller, success check."""
    path = tmp_path / "expert.json"
    assert evaluate.main(["expert", "--episodes", "5", "--seed", "3", "--delay-ms", str(delay_ms), "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["success_rate"] == 1.0 and report["bundle"] == "expert" and report["bundle_sha256"] is None


def test_the_expert_cannot_play_over_ros(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["expert", "--ros", "--episodes", "1"])
    assert "ground truth" in capsys.readouterr().err


def test_the_real_nodes_play_the_same_scenes(still_bundle, env):
    pytest.importorskip("rclpy")
    pytest.importorskip("vla_ros.ros.policy_link")
    from vla_ros.evaluate_ros import play_over_ros

    specs = evaluate.plan_episodes(1, 0, 0, "seen") + evaluate.plan_episodes(0, 1, 0, "seen")
    results = list(play_over_ros(specs, still_bundle, limit_s=4.0))
    assert [outcome.spec for outcome in results] == specs
    assert not any(outcome.success for outcome in results)
    assert {outcome.reason for outcome in results} == {TIME_LIMIT}
    assert results[1].instruction != results[2].instruction
    for outcome in results:  # counted by the node: cameras of 15 Hz let it answer at most that often
        assert 4 <= outcome.inferences <= 15 * 6 and outcome.rejected == 0


def test_the_policy_is_asked_as_often_as_the_node_asks_it():
    from vla_ros.ros.parameters import PolicyNodeParameters

    options = evaluate.parse(["tabletop"])
    assert options.ask_period_ms == pytest.approx(1e3 / PolicyNodeParameters().inference_max_rate_hz)


def test_a_longer_period_asks_less_often(tmp_path):
    def inferences(period_ms):
        path = tmp_path / f"{period_ms}.json"
        evaluate.main(["expert", "--episodes", "1", "--seed", "3", "--families", "put", "--delay-ms", "0", "--ask-period-ms", str(period_ms), "--json", str(path)])
        (outcome,) = json.loads(path.read_text())["outcomes"]
        return outcome["inferences"] / outcome["seconds"]

    assert inferences(400) == pytest.approx(2.5, rel=0.2) and inferences(100) == pytest.approx(10.0, rel=0.2)


def test_a_negative_period_is_refused(capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(["tabletop", "--ask-period-ms", "-1"])
    assert "--ask-period-ms" in capsys.readouterr().err
