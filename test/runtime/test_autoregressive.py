# SPDX-License-Identifier: Apache-2.0
"""A cache that grows by one token a step, decoding that is constrained, and bundles with two graphs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros.core import tabletop
from vla_ros.core.action_codec import PromptSpec
from vla_ros.core.constrained import fixed_length_mask
from vla_ros.core.errors import BundleError, DecodeError, InferenceError, InputError
from vla_ros.core.observation import Observation
from vla_ros.runtime.autoregressive import AutoregressivePolicy, CachedGraphs, answer_tokens
from vla_ros.runtime.bundle import file_sha256, load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, LEGAL_PROBABILITY, PREFIX_TOKENS
from vla_ros.runtime.policy import Policy, open_backend

sys.path.insert(0, str(Path(__file__).parent))
from cached_graphs import FIRST, LENGTH, OPSET, TEXT, VOCAB, WORD, answer_of, write_graphs  # noqa: E402

_spec = importlib.util.spec_from_file_location("runtime_rigs", Path(__file__).with_name("conftest.py"))
rigs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rigs)


class Rule:
    """As many action ids as there are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def legal_next(self, generated, vocab_size):
        return fixed_length_mask(generated, self.count, FIRST, FIRST + 256, vocab_size)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return CachedGraphs(*write_graphs(tmp_path_factory.mktemp("graphs")))


def observe(text_ids) -> dict[str, np.ndarray]:
    ids_1T = np.zeros((1, TEXT), np.int64)
    ids_1T[0, : len(text_ids)] = text_ids
    return {"text_ids": ids_1T, "proprio": np.zeros((1, 11), np.float32)}


@pytest.mark.parametrize("text_ids", [[5], [7, 200, 9, 254], list(range(1, TEXT + 1))])
def test_each_token_is_chosen_given_all_before_it(graphs, text_ids):
    said = answer_tokens(graphs, observe(text_ids), Rule(6))
    assert said.tolist() == answer_of(text_ids, 6)
    assert graphs.position == len(text_ids) + 5  # the last token needs no place
    cache = graphs.cache()
    np.testing.assert_array_equal(cache["present_key_0"].ravel(), [*text_ids, *said[:-1]])
    np.testing.assert_array_equal(cache["present_value_0"].ravel(), np.array([*text_ids, *said[:-1]], np.float16))


def test_a_new_observation_forgets_the_last_one(graphs):
    answer_tokens(graphs, observe([3, 4, 5]), Rule(6))
    assert answer_tokens(graphs, observe([9]), Rule(3)).tolist() == answer_of([9], 3)


def test_an_ordinary_word_is_never_chosen(graphs):
    """The graphs like a word best at every step: the published decoder would make full speed of it."""
    first = graphs.prefill(observe([5])).copy()
    assert first.argmax() == WORD
    assert all(FIRST <= token < FIRST + 256 for token in answer_tokens(graphs, observe([5]), Rule(6)))


def test_given_tokens_are_fed_and_what_follows_depends_on_them(graphs):
    given = {0: FIRST + 3, 1: FIRST + 250, 3: FIRST}
    prefix = [given.get(place, -1) for place in range(6)]
    said = answer_tokens(graphs, observe([7, 8]), Rule(6), prefix)
    assert said.tolist() == answer_of([7, 8], 6, given) != answer_of([7, 8], 6)


@pytest.mark.parametrize("token", [FIRST - 1, FIRST + 256, WORD, VOCAB, -2])
def test_a_given_token_that_is_not_legal_is_refused(graphs, token):
    with pytest.raises(DecodeError, match="position 1"):
        answer_tokens(graphs, observe([5]), Rule(3), [FIRST, token])


def test_an_answer_of_any_length_decodes_where_the_rule_says_so(graphs):
    """As FAST's rule: how many ids there are depends on what they are."""

    class UntilSmall:
        def legal_next(self, generated, vocab_size):
            legal = np.zeros(vocab_size, bool)
            legal[FIRST : FIRST + 256] = not generated or generated[-1] >= FIRST + 64
            return legal

    said = answer_tokens(graphs, observe([11, 3]), UntilSmall())
    assert said.tolist() == answer_of([11, 3], len(said))
    assert said[-1] < FIRST + 64 and (said[:-1] >= FIRST + 64).all()


def test_a_full_cache_is_refused(graphs):
    with pytest.raises(InferenceError, match=f"{LENGTH} places"):
        answer_tokens(graphs, observe(list(range(1, TEXT + 1))), Rule(LENGTH))


def test_nothing_can_be_added_before_an_observation_was_read(tmp_path):
    fresh = CachedGraphs(*write_graphs(tmp_path))
    with pytest.raises(InferenceError, match="read an observation first"):
        fresh.step(FIRST)


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_outside_the_vocabulary_is_refused(graphs, token):
    graphs.prefill(observe([5]))
    with pytest.raises(InferenceError, match="outside the vocabulary"):
        graphs.step(token)


def test_a_wrong_input_is_named(graphs):
    with pytest.raises(InferenceError, match="proprio"):
        graphs.prefill({"proprio": np.zeros((1, 10), np.float32)})
    with pytest.raises(InferenceError, match="depth"):
        graphs.prefill({"depth": np.zeros(1)})


def test_logits_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(DecodeError, match="not finite"):
        answer_tokens(CachedGraphs(*write_graphs(tmp_path, nan=True)), observe([5]), Rule(3))


def test_graphs_that_do_not_belong_together_are_refused(tmp_path):
    prefill, decode = write_graphs(tmp_path, decode_length=LENGTH)
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleError, match="gives.*import|Import"):
        CachedGraphs(decode, decode)
    with pytest.raises(BundleError, match="does not continue"):
        CachedGraphs(prefill, prefill)


# ---- bundles ----


def cached_manifest(folder: Path) -> dict:
    files = {"prefill": "prefill.onnx", "decode": "decode.onnx"}
    (folder / "policy.onnx").write_bytes(b"")
    manifest = rigs.make_manifest(folder)
    (folder / "policy.onnx").unlink()
    del manifest["plan"]
    spec = {**tabletop.ACTION_SPEC.to_dict(), "horizon": 1}
    return {
        **manifest, "format_version": 2, "decoding": "autoregressive", "action": spec, "files": files, "opset": OPSET,
        "context": {"length": LENGTH, "image_tokens": 0, "text_tokens": TEXT, "state_tokens": 0, "action_tokens": 6},
        "sha256": {name: file_sha256(folder / name) for name in ("prefill.onnx", "decode.onnx", "tokenizer.json")},
    }  # fmt: skip


@pytest.fixture
def cached_bundle(tmp_path):
    """Writes a bundle of the tabletop robot with the two graphs; ``change`` edits the manifest's dictionary."""

    def write(change=None) -> Path:
        write_graphs(tmp_path)
        rigs.make_tokenizer().save(str(tmp_path / "tokenizer.json"))
        manifest = cached_manifest(tmp_path)
        if change is not None:
            change(manifest)
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        return tmp_path

    return write


def observation(robot, text: str) -> Observation:
    return Observation(
        images={c.name: np.zeros(c.shape, np.uint8) for c in tabletop.CAMERAS}, image_stamp_ns={"front": 2000, "wrist": 1000},
        joint_positions=robot.home.copy(), joint_stamp_ns=1500, instruction=text, generation=7,
    )  # fmt: skip


def test_a_bundle_with_two_graphs_answers_through_the_same_policy(cached_bundle, robot):
    bundle = load_bundle(cached_bundle())
    policy = Policy(bundle, robot)
    assert isinstance(policy.backend, AutoregressivePolicy) and policy.warm_up() > 0.0
    for text in ("go", "fetch it"):
        chunk = policy.infer(observation(robot, text))
        text_ids = policy._prompts.encode(text)[0]
        assert chunk.tokens_HD.ravel().tolist() == answer_of(text_ids[text_ids != 0].tolist())
        chunk.validate(7)
    # nearly all probability lies on an ordinary word: the answer is an action, and not a sure one
    assert chunk.confidence_HD.max() < 1e-6


def test_committed_tokens_of_a_bundle_with_two_graphs_are_kept(cached_bundle, robot):
    policy = Policy(load_bundle(cached_bundle()), robot)
    prefix = np.array([[-1, FIRST + 128, -1, -1, -1, FIRST + 255]])
    chunk = policy.infer(observation(robot, "go"), prefix)
    text_ids = policy._prompts.encode("go")[0]
    assert chunk.tokens_HD.ravel().tolist() == answer_of(text_ids[text_ids != 0].tolist(), given={1: FIRST + 128, 5: FIRST + 255})
    assert chunk.confidence_HD[0, 1] == 1.0


def test_logits_are_those_behind_the_tokens(cached_bundle):
    backend = open_backend(load_bundle(cached_bundle()))
    answer = backend.infer(observe([7, 3]))
    assert answer[ACTION_LOGITS].shape == (1, 6, 256) and answer[LEGAL_PROBABILITY].shape == (1, 6)
    assert (FIRST + answer[ACTION_LOGITS][0].argmax(1)).tolist() == answer_of([7, 3])
    assert PREFIX_TOKENS in backend.inputs


MISFITS = [
    (lambda m: m["files"].pop("decode"), "role 'decode'.*import"),
    (lambda m: m["files"].update(verify="policy.onnx"), "does not run: \\['verify'\\].*update vla_ros"),
    (lambda m: m.update(decoding="parallel"), "role 'policy' for parallel"),
    (lambda m: m["context"].update(length=LENGTH + 1), "cache of 30 places"),
    (lambda m: m["vocabulary"].update(size=VOCAB + 1), "600 ids"),
    (lambda m: m["context"].update(text_tokens=TEXT - 1), "text_ids"),
    (lambda m: m.update(output="continuous"), "no codec and its decoding is parallel"),
]


@pytest.mark.parametrize("change, words", MISFITS)
def test_a_bundle_that_does_not_fit_its_graphs_is_refused_with_what_to_do(cached_bundle, change, words):
    def edit(manifest):
        change(manifest)
        manifest["sha256"] = {
            name: digest for name, digest in manifest["sha256"].items() if name in {*manifest["files"].values(), "tokenizer.json"}
        }
        manifest["sha256"].update({name: "0" * 64 for name in manifest["files"].values() if name not in manifest["sha256"]})

    with pytest.raises(BundleError, match=f"(?s){words}"):
        AutoregressivePolicy(load_bundle(cached_bundle(edit)))


def test_prompts_can_have_ids_around_the_text_and_lower_case(cached_bundle, robot):
    def edit(manifest):
        manifest["prompt"] = {"lowercase": True, "prefix_ids": [1], "suffix_ids": [2, 3]}

    policy = Policy(load_bundle(cached_bundle(edit)), robot)
    upper, lower = (policy._prompts.encode(text)[0] for text in ("GO", "go"))
    np.testing.assert_array_equal(upper, lower)
    ids = lower[lower != 0].tolist()
    assert ids[0] == 1 and ids[-2:] == [2, 3]
    assert policy.manifest.prompt == PromptSpec(lowercase=True, prefix_ids=(1,), suffix_ids=(2, 3))


def test_an_id_around_the_text_must_be_in_the_vocabulary(cached_bundle):
    with pytest.raises(BundleError, match="adds the id 600"):
        load_bundle(cached_bundle(lambda m: m.update(prompt={"prefix_ids": [VOCAB]})))


def test_words_whose_tokens_mean_actions_are_refused(cached_bundle, robot):
    """OpenVLA's actions take the ids of rare words: such a word in an instruction would be read as an action."""
    statistics = {name: [value] * 6 for name, value in {"mean": 0.0, "std": 1.0, "max": 1.0, "min": -1.0, "q01": -0.9, "q99": 0.9}.items()}

    def edit(manifest):
        manifest["vocabulary"]["first_action_token"] = 1  # the tokenizer's bytes
        manifest["vocabulary"]["pad_token"] = 0
        manifest["codec"] = {"kind": "quantile", "scale": [1.0] * 6, "offset": [0.0] * 6, "statistics": statistics}
        manifest["prompt"] = {"suffix_ids": [300]}

    policy = Policy(load_bundle(cached_bundle(edit)), robot)
    with pytest.raises(InputError, match="means an action") as error:
        policy.check_instruction("go")
    assert error.value.code == "instruction_action_token"
