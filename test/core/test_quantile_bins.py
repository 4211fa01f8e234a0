# SPDX-License-Identifier: Apache-2.0
"""OpenVLA's convention, its round-trip bound and its hazards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ActionError, ConfigError, DecodeError
from vla_ros.core.quantile_bins import QuantileTokenizer

# Seven dimensions as OpenVLA has them: three translations, three rotations, the gripper left alone.
BRIDGE = ValueStatistics(
    mean=(0.0,) * 6 + (0.6,),
    std=(0.01,) * 6 + (0.5,),
    max=(0.4, 0.25, 0.2, 3.0, 0.27, 3.0, 1.0),
    min=(-0.4, -0.27, -0.22, -3.0, -0.27, -3.0, 0.0),
    q01=(-0.028, -0.041, -0.026, -0.08, -0.09, -0.2, 0.0),
    q99=(0.028, 0.040, 0.040, 0.081, 0.077, 0.20, 1.0),
    mask=(True,) * 6 + (False,),
)
TOKENS = QuantileTokenizer(BRIDGE)


def one_dim(q01, q99, mask=True, low=None, high=None):
    low, high = (q01 if low is None else low), (q99 if high is None else high)
    return ValueStatistics(mean=(q01,), std=(1.0,), max=(high,), min=(low,), q01=(q01,), q99=(q99,), mask=(mask,))


def id_by_counting(normal: float, vocab_size: int = 32000) -> int:
    """The convention in other words: count the 256 edges that are not above the value."""
    return vocab_size - sum(-1.0 + 2.0 * edge / 255.0 <= normal for edge in range(256))


def test_ids_of_the_published_range():
    low, high = np.array([[*BRIDGE.q01[:6], -1.0]]), np.array([[*(np.array(BRIDGE.q99[:6]) + 1.0), 1.0]])
    assert TOKENS.encode(low).tolist() == [[31999] * 7]
    assert TOKENS.encode(high).tolist() == [[31744] * 7]
    assert (TOKENS.first_token_id, TOKENS.end_token_id) == (31744, 32000)


@given(st.floats(-1.0, 1.0))
def test_an_unscaled_value_gets_the_id_that_counting_edges_gives(value):
    codec = QuantileTokenizer(one_dim(-1.0, 1.0, mask=False))
    near_edge = min(abs(value - (-1.0 + 2.0 * edge / 255.0)) for edge in range(256)) < 1e-12  # where float64 rounding decides
    assert near_edge or codec.encode([[value]])[0, 0] == id_by_counting(value)


def test_two_ids_share_the_last_centre():
    decoded = [TOKENS.decode(np.full((1, 7), token))[0] for token in (31744, 31745, 31746)]
    np.testing.assert_array_equal(decoded[0], decoded[1])
    assert (decoded[1] > decoded[2]).all()


def test_decoding_is_the_published_formula():
    """`a = (c + 1) (q99 - q01) / 2 + q01` with 255 centres c of width 2/255; the gripper is its centre itself."""
    tokens = np.array([[31999, 31998, 31872, 31872, 31745, 31744, 31999]])
    centre = np.array([-254, -252, 0, 0, 254, 254, -254]) / 255.0
    expected = (centre + 1) / 2 * (np.array(BRIDGE.q99) - np.array(BRIDGE.q01)) + np.array(BRIDGE.q01)
    np.testing.assert_allclose(TOKENS.decode(tokens)[0, :6], expected[:6], rtol=0, atol=1e-15)
    assert TOKENS.decode(tokens)[0, 6] == pytest.approx(-254 / 255, abs=1e-15)


@st.composite
def inside_quantiles(draw):
    q01 = draw(st.floats(-1e3, 1e3))
    q99 = q01 + draw(st.floats(0.0, 1e3))
    return q01, q99, min(q01 + draw(st.floats(0.0, 1.0)) * (q99 - q01), q99)


@given(inside_quantiles())
def test_round_trip_error_is_at_most_half_a_bin(case):
    q01, q99, value = case
    codec = QuantileTokenizer(one_dim(q01, q99, low=q01 - 1.0))
    assert codec.error_bound_D[0] == pytest.approx((q99 - q01) / 510 + 1e-8)
    rounding = 16 * np.finfo(float).eps * (1.0 + max(abs(q01), abs(q99)))  # a few operations on numbers of this size
    assert abs(codec.decode(codec.encode([[value]], clip=False))[0, 0] - value) <= codec.error_bound_D[0] + rounding


@given(st.floats(-1.0, 1.0))
def test_round_trip_error_of_an_unscaled_value(value):
    codec = QuantileTokenizer(one_dim(0.0, 1.0, mask=False))
    assert abs(codec.decode(codec.encode([[value]]))[0, 0] - value) <= codec.error_bound_D[0] + 1e-15
    assert codec.error_bound_D[0] == pytest.approx(1 / 255)


@given(st.lists(st.integers(31745, 31999), min_size=7, max_size=7))
def test_every_id_but_the_doubled_one_survives_decoding_and_encoding(ids):
    np.testing.assert_array_equal(TOKENS.encode(TOKENS.decode(np.array([ids]))), [ids])


def test_values_outside_the_quantiles_are_clipped_or_refused_as_asked():
    action = np.array([[1.0, 0, 0, 0, 0, 0, 0]])
    assert TOKENS.decode(TOKENS.encode(action))[0, 0] == pytest.approx(0.028, abs=TOKENS.error_bound_D[0])
    with pytest.raises(ActionError, match=r"\[0, 0\] is 1.0, bounds \[-0.028, 0.028\]"):
        TOKENS.encode(action, clip=False)
    assert action[0, 0] == 1.0  # the input is not written to


def test_a_dimension_that_never_changed_comes_back_as_its_constant():
    codec = QuantileTokenizer(one_dim(0.3, 0.3))
    assert codec.encode([[0.3]])[0, 0] == 31872  # the middle, as the training data have it
    assert codec.decode(codec.encode([[0.3]]))[0, 0] == 0.3


def test_a_constant_that_would_decode_to_zero_is_refused():
    with pytest.raises(ConfigError, match="always 0.3 and its mask is false"):
        QuantileTokenizer(one_dim(0.3, 0.3, mask=False))
    assert QuantileTokenizer(one_dim(0.0, 0.0, mask=False)).decode(np.array([[31872]]))[0, 0] == 0.0


@pytest.mark.parametrize("token", [31743, 32000, 0, -1, 29871])
def test_a_word_is_never_clipped_to_a_motion(token):
    """The published decoder turns every id below its range into +0.996 of full speed."""
    tokens = np.full((1, 7), 31800)
    tokens[0, 3] = token
    with pytest.raises(DecodeError, match=rf"{token} at \[0, 3\].*\[31744, 32000\)"):
        TOKENS.decode(tokens)


@pytest.mark.parametrize("tokens", [np.full((2, 7), 31800), np.full((1, 6), 31800), np.full((1, 7), 31800.0)])
def test_tokens_of_a_wrong_shape_or_type_are_refused(tokens):
    with pytest.raises(DecodeError):
        TOKENS.decode(tokens)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_clipped(value):
    with pytest.raises(ActionError, match="finite"):
        TOKENS.encode(np.full((1, 7), value))


def test_numbers_that_make_no_codec_are_refused():
    with pytest.raises(ConfigError, match="text_vocab_size"):
        QuantileTokenizer(BRIDGE, text_vocab_size=255)
    with pytest.raises(ConfigError, match="horizon"):
        QuantileTokenizer(BRIDGE, horizon=0)
