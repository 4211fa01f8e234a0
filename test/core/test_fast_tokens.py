# SPDX-License-Identifier: Apache-2.0
"""FAST: the transform against independent references, the derived bounds, and what is no chunk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ActionError, BundleError, ConfigError, DecodeError
from vla_ros.core.fast_tokens import (
    FastTokenizer,
    FastVocabulary,
    dct_matrix,
    largest_coefficient,
    quantized_spectrum,
    read_fast_tokenizer,
    write_fast_tokenizer,
)

ROUNDING = 1e-9  # far above float64 rounding of some hundred operations on numbers of size one


def plain_stats(dims, half_range=1.0, mask=None):
    """Quantiles at -half_range and half_range."""
    low, high = (-half_range,) * dims, (half_range,) * dims
    return ValueStatistics(mean=(0.0,) * dims, std=(1.0,) * dims, max=high, min=low, q01=low, q99=high, mask=mask)


def codec(horizon=5, dims=3, scale=10.0, merges=(), half_range=1.0, mask=None, first=0):
    vocabulary = FastVocabulary(max_coefficient=largest_coefficient(horizon, scale), merges=merges)
    return FastTokenizer(plain_stats(dims, half_range, mask), horizon, vocabulary, scale=scale, first_token_id=first)


@st.composite
def chunk_case(draw):
    """A normalised chunk with a codec of its shape and random merges."""
    horizon, dims, scale = draw(st.integers(1, 16)), draw(st.integers(1, 4)), draw(st.sampled_from([0.5, 1.0, 3.3, 10.0, 100.0]))
    normal = draw(hnp.arrays(np.float64, (horizon, dims), elements=st.floats(-1.0, 1.0)))
    size, merges = 2 * largest_coefficient(horizon, scale) + 1, []
    for _ in range(draw(st.integers(0, 6))):
        pair = (draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1)))
        merges += [] if pair in merges else [pair]
        size = FastVocabulary(max_coefficient=largest_coefficient(horizon, scale), merges=tuple(merges)).size
    return normal, codec(horizon, dims, scale, tuple(merges))


# ---- the transform ----


@pytest.mark.parametrize("size", [1, 2, 5, 8, 50])
def test_the_matrix_is_orthonormal(size):
    matrix = dct_matrix(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_matrix_is_the_type_two_cosine_transform(size):
    """Reference: half of the discrete Fourier transform of the signal and its mirror image, scaled to length one."""
    signal = np.random.default_rng(size).normal(size=size)
    mirrored = np.concatenate([signal, signal[::-1]])
    turned = np.exp(-1j * np.pi * np.arange(size) / (2 * size)) * np.fft.fft(mirrored)[:size] / 2
    expected = turned.real * np.sqrt(np.where(np.arange(size) == 0, 1.0, 2.0) / size)
    np.testing.assert_allclose(dct_matrix(size) @ signal, expected, atol=1e-12)


def test_a_constant_chunk_is_one_coefficient_a_dimension():
    """n = 1 over H = 4 steps has c_0 = sqrt(4) = 2, rounded at scale 10 to 20; dimension by dimension first."""
    assert quantized_spectrum(np.tile([1.0, -0.5, 0.0], (4, 1)), 10.0).tolist() == [20, -10, 0] + [0] * 9


def test_low_frequencies_of_all_dimensions_come_first():
    slow, fast = dct_matrix(4)[1], dct_matrix(4)[3]
    assert quantized_spectrum(np.stack([slow, fast], axis=1), 10.0).tolist() == [0, 0, 10, 0, 0, 0, 0, 10]


# ---- bounds ----


@given(chunk_case())
def test_no_chunk_has_a_coefficient_beyond_the_alphabet(case):
    normal, tokenizer = case
    assert np.abs(quantized_spectrum(normal, tokenizer.scale)).max() <= tokenizer.vocabulary.max_coefficient


@given(chunk_case())
def test_round_trip_error_obeys_the_derived_bounds(case):
    """Parseval: every coefficient is off by at most 1/(2 scale), a dimension's H of them by at most sqrt(H)/(2 scale) in L2."""
    normal, tokenizer = case
    decoded = tokenizer.decode(tokenizer.encode(normal, clip=False), strict=True)
    error = np.abs(decoded - normal)
    assert (np.linalg.norm(error, axis=0) <= tokenizer.l2_bound + ROUNDING + 1e-8).all()
    assert (error <= tokenizer.error_bound_D + ROUNDING).all()


def test_the_bounds_are_attained_to_half():
    """They are no wild overestimates: some chunk uses more than half of each."""
    tokenizer = codec(horizon=8, dims=1)
    normal = dct_matrix(8).T @ np.full((8, 1), 0.0499)  # every coefficient almost half a step away from its rounded value
    error = np.abs(tokenizer.decode(tokenizer.encode(normal)) - normal)
    assert np.linalg.norm(error) > 0.99 * tokenizer.l2_bound and error.max() > 0.5 * tokenizer.error_bound_D[0]


def test_the_bound_scales_with_the_unit():
    small, large = codec(half_range=0.01), codec(half_range=2.0)
    assert large.error_bound_D[0] / small.error_bound_D[0] == pytest.approx(200, rel=1e-4)
    assert codec(half_range=2.0, mask=(False,) * 3).error_bound_D[0] == pytest.approx(codec(half_range=1.0).error_bound_D[0], rel=1e-4)


@given(st.floats(0.01, 100.0), st.integers(0, 2**32 - 1))
def test_round_trip_in_physical_units(half_range, seed):
    tokenizer = codec(half_range=half_range)
    actions = np.random.default_rng(seed).uniform(-half_range, half_range, (5, 3))
    decoded = tokenizer.decode(tokenizer.encode(actions, clip=False))
    assert (np.abs(decoded - actions) <= tokenizer.error_bound_D + ROUNDING * half_range).all()
    assert (np.abs(decoded) <= half_range * (1 + ROUNDING)).all()


# ---- merges ----


@given(chunk_case())
def test_merges_change_the_length_and_nothing_else(case):
    normal, tokenizer = case
    spelled = [c for i in tokenizer.encode(normal) for c in tokenizer.vocabulary.expansions[i]]
    assert spelled == quantized_spectrum(normal, tokenizer.scale).tolist()


def test_earlier_merges_win_and_leftmost_places_first():
    vocabulary = FastVocabulary(max_coefficient=1, merges=((1, 1), (3, 1), (0, 3)))  # -1, 0, 1 are 0, 1, 2
    assert vocabulary.expansions[3:] == ((0, 0), (0, 0, 0), (-1, 0, 0))
    assert vocabulary.merge(np.array([0, 0, 0, 0, 0])) == [3, 4]  # pairs (0 0)(0 0) 0, then the triple
    assert vocabulary.merge(np.array([-1, 0, 0, 1])) == [5, 2]
    assert vocabulary.merge(np.array([])) == []


def test_a_smooth_chunk_takes_few_tokens():
    zeros = codec(merges=((23, 23), (47, 47), (48, 48)))  # 2, 4 and 8 zeros in one id
    assert len(zeros.encode(np.tile([0.3, -0.2, 0.1], (5, 1)))) == 3 + 2  # three values, then 12 zeros as 8 and 4
    assert len(codec().encode(np.zeros((5, 3)))) == 15


def test_two_merges_that_spell_the_same_share_one_id():
    vocabulary = FastVocabulary(max_coefficient=1, merges=((0, 1), (1, 2), (3, 2), (0, 4)))
    assert vocabulary.size == 3 + 3 and vocabulary.merge(np.array([-1, 0, 1])) == [5]


@pytest.mark.parametrize("merges", [((0, 3),), ((-1, 0),), ((0, 0), (4, 0)), ((0, 0), (0, 0))])
def test_a_merge_of_an_id_that_does_not_exist_or_twice_is_refused(merges):
    with pytest.raises(BundleError, match="merge"):
        FastVocabulary(max_coefficient=1, merges=merges)


# ---- what is no chunk ----


def test_an_answer_that_spells_too_little_or_too_much_is_an_error():
    """The published decoder returns the middle of the range instead."""
    tokenizer = codec()
    for length in (0, 14, 16):
        with pytest.raises(DecodeError, match=f"spell {length} coefficients.*has 15"):
            tokenizer.decode(np.full(length, 23, dtype=np.int32))


@pytest.mark.parametrize("token", [99, 147, -1, 2**31 - 1])
def test_a_word_is_never_a_coefficient(token):
    tokens = np.full(15, 123)
    tokens[4] = token
    with pytest.raises(DecodeError, match=rf"{token} at \[4\].*\[100, 147\)"):
        codec(first=100).decode(tokens)


@pytest.mark.parametrize("tokens", [np.full((5, 3), 23), np.full(15, 23.0), np.full(15, np.nan)])
def test_tokens_of_a_wrong_shape_or_type_are_refused(tokens):
    with pytest.raises(DecodeError):
        codec().decode(tokens)


def test_a_spectrum_that_no_chunk_has_is_projected_or_refused_as_asked():
    tokenizer = codec()
    loud = np.full(15, 46)  # every coefficient the largest there is
    assert np.abs(tokenizer.decode(loud)).max() <= 1.0
    with pytest.raises(DecodeError, match="no encoded chunk"):
        tokenizer.decode(loud, strict=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(value):
    with pytest.raises(ActionError, match="finite"):
        codec().encode(np.full((5, 3), value))


def test_actions_outside_the_quantiles_are_clipped_or_refused_as_asked():
    tokenizer = codec()
    np.testing.assert_array_equal(tokenizer.encode(np.full((5, 3), 7.0)), tokenizer.encode(np.ones((5, 3))))
    with pytest.raises(ActionError, match="bounds"):
        tokenizer.encode(np.full((5, 3), 7.0), clip=False)
    with pytest.raises(ActionError, match="shape"):
        tokenizer.encode(np.zeros((4, 3)))


def test_numbers_that_make_no_codec_are_refused():
    vocabulary = FastVocabulary(max_coefficient=23)
    with pytest.raises(ConfigError, match="need 70"):
        FastTokenizer(plain_stats(3), 49, vocabulary)
    for change in ({"scale": 0.0}, {"scale": np.nan}, {"first_token_id": -1}):
        with pytest.raises(ConfigError):
            FastTokenizer(plain_stats(3), 5, vocabulary, **change)
    with pytest.raises(ActionError, match="beyond"):
        vocabulary.merge(np.array([24]))
    with pytest.raises(BundleError):
        FastVocabulary(max_coefficient=0)


# ---- the file ----


def test_the_file_gives_the_same_codec(tmp_path):
    tokenizer, path = codec(merges=((23, 23), (47, 24)), mask=(True, False, True)), tmp_path / "fast_tokenizer.json"
    write_fast_tokenizer(path, tokenizer)
    again = read_fast_tokenizer(path, first_token_id=7)
    assert again.to_dict() == tokenizer.to_dict() and again.vocabulary == tokenizer.vocabulary
    chunk = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    np.testing.assert_array_equal(again.encode(chunk), tokenizer.encode(chunk) + 7)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": 2}, "format_version"),
        ({"merges": [[1]]}, "pairs"),
        ({"merges": [[1, True]]}, "pairs"),
        ({"merges": [[0, 900]]}, "merge 0"),
        ({"max_coefficient": 3}, "need 23"),
        ({"scale": "ten"}, "scale"),
        ({"more": 1}, "unknown keys"),
        ({"action": {}}, "mean"),
    ],
)
def test_a_broken_file_is_refused_with_its_key(tmp_path, change, message):
    path = tmp_path / "fast_tokenizer.json"
    path.write_text(json.dumps({**codec().to_dict(), **change}), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_fast_tokenizer(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nothing.json"):
        read_fast_tokenizer(tmp_path / "nothing.json")
