# SPDX-License-Identifier: Apache-2.0
"""The session runs what was asked for, on what was asked for, or says why not."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from vla_ros.core.errors import BundleError, ConfigError, InferenceError
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.contract import expected_inputs
from vla_ros.runtime.session import PROVIDERS, OnnxPolicy


@pytest.fixture
def session(bundle_writer):
    return OnnxPolicy(load_bundle(bundle_writer()))


def inputs_of(session, value=0):
    return {n: np.full(s.shape, value, s.dtype) for n, s in expected_inputs(session.bundle.manifest).items()}


def test_warm_up_and_provider(session):
    assert session.warm_up() > 0.0
    assert session.provider == "cpu" and session.providers_in_use == ("CPUExecutionProvider",)


def test_bound_buffers_give_the_same_as_plain_run(session):
    rng = np.random.default_rng(0)
    inputs = inputs_of(session, 1)
    inputs["image_front"] = rng.integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    plain = ort.InferenceSession(str(session.bundle.policy_path), providers=["CPUExecutionProvider"]).run(None, inputs)
    bound = session.infer(inputs)
    np.testing.assert_array_equal(bound["action_logits"], plain[0])
    np.testing.assert_array_equal(bound["plan_tokens"], plain[1])


def test_every_call_reads_its_inputs_anew(session):
    dark = session.infer(inputs_of(session, 0))["action_logits"].copy()
    bright = session.infer({"image_front": np.full((1, 128, 128, 3), 255, np.uint8)})["action_logits"].copy()
    assert (bright.argmax(2) == 200).all() and (dark.argmax(2) != 200).all()


WRONG_INPUTS = [("proprio", np.zeros((1, 10), np.float32)), ("proprio", np.zeros((1, 11))), ("depth", np.zeros(1))]


@pytest.mark.parametrize("name, value", WRONG_INPUTS)
def test_a_wrong_input_is_named(session, name, value):
    with pytest.raises(InferenceError, match=name):
        session.infer({name: value})


def test_unknown_and_absent_providers_are_refused_with_the_choices(bundle_writer):
    bundle = load_bundle(bundle_writer())
    with pytest.raises(ConfigError, match="cuda"):
        OnnxPolicy(bundle, "gpu")
    absent = next(n for n, chain in PROVIDERS.items() if chain[0] not in ort.get_available_providers())
    with pytest.raises(ConfigError, match="install"):
        OnnxPolicy(bundle, absent)
    assert OnnxPolicy(bundle, absent, allow_cpu=True).provider == "cpu"


def test_a_graph_that_differs_from_the_manifest_is_refused_listing_both(bundle_writer):
    with pytest.raises(BundleError, match=r"(?s)manifest:.*graph:.*depth"):
        OnnxPolicy(load_bundle(bundle_writer(extra_input=True)))

    def smaller(manifest):
        manifest["cameras"][0]["height"] = 64

    with pytest.raises(BundleError, match=r"(?s)\[1, 64, 128, 3\].*\[1, 128, 128, 3\]"):
        OnnxPolicy(load_bundle(bundle_writer(change=smaller)))
