# SPDX-License-Identifier: Apache-2.0
"""Token after token with a key/value cache that stays where the graphs run: one graph reads the observation, another one adds a token.

    prefill   the observation               -> logits, position, present_key_i, present_value_i
    decode    token, position, past_key_i, past_value_i -> logits, present_key_i, present_value_i

Every shape is fixed. The cache has room for the whole context window; ``position`` is how many of its places are filled, and what lies behind
it is not looked at. Two caches take turns, so that no graph writes what it reads, and nothing of them is copied between two tokens.
Axes: V ids of the vocabulary, N tokens of an answer, G key/value heads, L places of the cache, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vla_ros.core.constrained import NextTokenRule, generate
from vla_ros.core.errors import BundleError, ConfigError, DecodeError, InferenceError
from vla_ros.core.manifest import DECODE, PREFILL, Manifest
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.codec import make_codec
from vla_ros.runtime.contract import (
    ACTION_LOGITS,
    FREE_TOKEN,
    LEGAL_PROBABILITY,
    PREFIX_TOKENS,
    TensorSpec,
    compare_signature,
    observation_inputs,
    tensor_spec,
)
from vla_ros.runtime.providers import FATAL_LOGS_ONLY, OpenSession, open_session
from vla_ros.runtime.session import MAX_RELATIVE_ERROR, relative_error, time_last

LOGITS, POSITION, TOKEN = "logits", "position", "token"
PAST, PRESENT = "past", "present"
MAX_VERIFIED_BYTES = 2 << 30  # a second copy on the CPU, in float32, must fit the machine


class CachedGraphs:
    """The two graphs and their cache. One thread only: the logits' buffer is reused by the next call.

    Args:
        prefill: ONNX file.
        decode: ONNX file.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available; ``provider`` then says ``cpu``.

    Raises:
        ConfigError: the provider is not available.
        BundleError: a graph cannot be loaded, or the two do not fit each other.
    """

    def __init__(self, prefill: Path, decode: Path, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        self._prefill = open_session(prefill, provider, threads, allow_cpu)
        self._decode = open_session(decode, self._prefill.provider, threads, allow_cpu)
        self.provider, self.description = self._prefill.provider, self._prefill.description
        self.inputs = {arg.name: tensor_spec(arg) for arg in self._prefill.session.get_inputs()}
        outputs = {arg.name: tensor_spec(arg) for arg in self._prefill.session.get_outputs()}
        self.cache_specs = _cache_specs(outputs, prefill)
        self.length = next(iter(self.cache_specs.values())).shape[2]
        self.vocab_size = outputs[LOGITS].shape[-1]
        self._verify_decode(decode, outputs[LOGITS])
        self._bind(outputs)
        self._position = self.length  # nothing was read yet

    @property
    def providers_in_use(self) -> tuple[str, ...]:
        """ONNX Runtime's names, the first one has the first choice of the operators."""
        return tuple(self._prefill.session.get_providers())

    @property
    def position(self) -> int:
        """Filled places of the cache."""
        return self._position

    def prefill(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Reads an observation; an earlier cache is forgotten.

        Args:
            inputs: name to array of exactly the bound dtype and shape; an input that is left out keeps its last value.

        Returns:
            Logits of the first token, float32 [V], valid until the next call.

        Raises:
            InferenceError: an input does not fit, or the back end failed.
        """
        for name, value in inputs.items():
            spec = self.inputs.get(name)
            if spec is None or value.shape != spec.shape or value.dtype != spec.dtype:
                wanted = "no such input" if spec is None else str(spec)
                raise InferenceError(f"input '{name}': expected {wanted}, got {value.dtype} {list(value.shape)}")
            self._values[name].update_inplace(np.ascontiguousarray(value))
        self._run(self._prefill, self._bindings[PREFILL], 0)
        self._position = int(self._values[POSITION].numpy()[0])
        self._turn = 0
        return self._logits()

    def step(self, token: int) -> np.ndarray:
        """Adds a token to the sequence.

        Args:
            token: its id.

        Returns:
            Logits of the next token, float32 [V], valid until the next call.

        Raises:
            InferenceError: no observation was read, the cache is full, the id is none, or the back end failed.
        """
        if not 0 <= self._position < self.length:
            raise InferenceError(f"the cache has {self.length} places and {self._position} are filled: read an observation first")
        if not 0 <= token < self.vocab_size:
            raise InferenceError(f"token {token} is outside the vocabulary [0, {self.vocab_size})")
        self._values[TOKEN].update_inplace(np.array([[token]], dtype=np.int64))
        self._values[POSITION].update_inplace(np.array([self._position], dtype=np.int64))
        self._run(self._decode, self._bindings[self._turn], 1 + self._turn)
        self._position += 1
        self._turn = 1 - self._turn
        return self._logits()

    def cache(self) -> dict[str, np.ndarray]:
        """Copies of the keys and values that are in use, name to [1, G, position, E]. For tests and for looking at; slow."""
        return {name: value.numpy()[:, :, : self._position].copy() for name, value in self._caches[self._turn].items()}

    def _verify_decode(self, path: Path, logits: TensorSpec) -> None:
        past = {name.replace(PRESENT, PAST, 1): spec for name, spec in self.cache_specs.items()}
        state = {TOKEN: TensorSpec(dtype=np.int64, shape=(1, 1)), POSITION: TensorSpec(dtype=np.int64, shape=(1,))}
        try:
            compare_signature("inputs", {**state, **past}, self._decode.session.get_inputs())
            compare_signature("outputs", {LOGITS: logits, **self.cache_specs}, self._decode.session.get_outputs())
        except BundleError as error:
            raise BundleError(f"{path} does not continue what the prefill graph begins: {error}") from error

    def _bind(self, outputs: Mapping[str, TensorSpec]) -> None:
        device = self._prefill.device
        token = {TOKEN: TensorSpec(dtype=np.int64, shape=(1, 1))}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(spec.empty(), device, 0) for name, spec in {**self.inputs, **token}.items()}
        for name in (LOGITS, POSITION):
            self._values[name] = ort.OrtValue.ortvalue_from_numpy(outputs[name].empty(), device, 0)
        self._caches = [
            {name: ort.OrtValue.ortvalue_from_numpy(spec.empty(), device, 0) for name, spec in self.cache_specs.items()} for _ in range(2)
        ]
        inputs = {name: self._values[name] for name in self.inputs}
        results = {name: self._values[name] for name in (LOGITS, POSITION)}
        state = {name: self._values[name] for name in (TOKEN, POSITION)}
        logits = {LOGITS: self._values[LOGITS]}
        self._bindings: dict[Any, Any] = {PREFILL: _bound(self._prefill, inputs, {**results, **self._caches[0]})}
        for turn in range(2):
            past = {name.replace(PRESENT, PAST, 1): value for name, value in self._caches[turn].items()}
            self._bindings[turn] = _bound(self._decode, {**state, **past}, {**logits, **self._caches[1 - turn]})

    def _run(self, opened: OpenSession, binding: Any, recording: int) -> None:
        options = ort.RunOptions()
        options.log_severity_level = FATAL_LOGS_ONLY
        if opened.replays_graph:  # kernels are recorded with their addresses: each pair of caches is a recording of its own
            options.add_run_config_entry("gpu_graph_id", str(recording))
        try:
            opened.session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this one
            raise InferenceError(f"inference failed on {self.providers_in_use[0]}: {error}") from error

    def _logits(self) -> np.ndarray:
        return self._values[LOGITS].numpy().reshape(-1)


def _bound(opened: OpenSession, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    binding = opened.session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    return binding


def _cache_specs(outputs: Mapping[str, TensorSpec], path: Path) -> dict[str, TensorSpec]:
    """The cache as the prefill graph gives it."""
    cache = {name: spec for name, spec in outputs.items() if name.startswith(f"{PRESENT}_")}
    layers = len(cache) // 2
    wanted = {f"{PRESENT}_{kind}_{layer}" for layer in range(layers) for kind in ("key", "value")}
    others = set(outputs) - set(cache)
    if not cache or set(cache) != wanted or others != {LOGITS, POSITION}:
        raise BundleError(
            f"{path} gives {sorted(outputs)}: a prefill graph gives {LOGITS}, {POSITION} and {PRESENT}_key_i, {PRESENT}_value_i of each layer. "
            "Import the bundle again"
        )
    shapes = {spec.shape for spec in cache.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4 or next(iter(shapes))[0] != 1:
        raise BundleError(
            f"{path} has caches of the shapes {sorted(shapes)}: they must all be the same [1, heads, places, channels]. Import it again"
        )
    return cache


class AutoregressivePolicy:
    """A bundle's two graphs as one that gives the logits of all action tokens, as ``OnnxPolicy`` does. One thread only.

    Decoding is greedy and constrained: at each position only the ids that the codec allows there are compared, so that the answer is an
    action whatever the network prefers. Committed tokens are fed as they are.

    Args:
        bundle: a verified bundle with the roles ``prefill`` and ``decode``.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available.

    Raises:
        ConfigError: an unknown provider, one that is not available, or one whose answers differ from the CPU's.
        BundleError: a graph cannot be loaded or does not fit the manifest.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        self.bundle = bundle
        self.graphs = CachedGraphs(bundle.path(PREFILL), bundle.path(DECODE), provider, threads, allow_cpu)
        self.provider, self.description = self.graphs.provider, self.graphs.description
        manifest = bundle.manifest
        _verify_manifest(manifest, self.graphs)
        self._rule = make_codec(manifest)
        self._first = manifest.vocabulary.first_action_token
        self._num_tokens, self._num_bins = manifest.action.num_tokens, manifest.action.num_bins
        prefix = TensorSpec(dtype=np.int64, shape=(1, self._num_tokens))
        self.inputs = {**observation_inputs(manifest), PREFIX_TOKENS: prefix}
        self._free_prefix = np.full(prefix.shape, FREE_TOKEN, dtype=np.int64)
        if self.provider != "cpu" and _size(bundle) <= MAX_VERIFIED_BYTES:
            verify_answers(self, AutoregressivePolicy(bundle, "cpu", threads))

    @property
    def providers_in_use(self) -> tuple[str, ...]:
        """ONNX Runtime's names."""
        return self.graphs.providers_in_use

    def warm_up(self, runs: int = 2) -> float:
        """Answers zeros until memory and kernels are there; returns seconds of the last answer. Raises InferenceError."""
        inputs = {name: spec.empty() for name, spec in self.inputs.items() if name != PREFIX_TOKENS}
        return time_last(lambda: self.infer(inputs), runs)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answers an observation.

        Args:
            inputs: name to array; ``prefix_tokens`` [1, N] are committed ids, -1 where the policy is free; without them all are free.

        Returns:
            ``action_logits`` float32 [1, N, bins], each given the tokens before it, and ``legal_probability`` float32 [1, N]: how much of the
            distribution over the whole vocabulary lies on the ids that are legal there. The greedy choice at each free position is the token that
            the later ones are given.

        Raises:
            InferenceError: an input does not fit, or the back end failed.
            DecodeError: logits that are not finite, or a committed id that is not legal.
        """
        prefix_N = inputs.get(PREFIX_TOKENS, self._free_prefix).reshape(-1)
        observation = {name: value for name, value in inputs.items() if name != PREFIX_TOKENS}
        logits_NB = np.zeros((self._num_tokens, self._num_bins), dtype=np.float32)
        legal_N = np.zeros(self._num_tokens, dtype=np.float32)

        def note(position: int, logits_V: np.ndarray) -> None:
            logits_NB[position] = logits_V[self._first : self._first + self._num_bins]
            legal_N[position] = _mass(logits_V, self._rule.legal_next([self._first] * position, len(logits_V)))

        answer_tokens(self.graphs, observation, self._rule, prefix_N, note)
        return {ACTION_LOGITS: logits_NB[None], LEGAL_PROBABILITY: legal_N[None]}


def answer_tokens(
    graphs: CachedGraphs,
    observation: Mapping[str, np.ndarray],
    rule: NextTokenRule,
    prefix_N: Sequence[int] = (),
    note: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """A complete answer under ``rule``, greedily; any codec's, of fixed length or not.

    Args:
        graphs: the model.
        observation: inputs of the prefill graph.
        rule: which ids may follow.
        prefix_N: ids that are given at the first positions, ``FREE_TOKEN`` where they are not.
        note: is told each position and its logits [V], which are valid during the call.

    Returns:
        int32 ids.

    Raises:
        DecodeError: legal logits that are not finite, or a given id that is not legal.
        InferenceError: the back end failed, or the answer does not fit the cache.
    """

    def logits_of(generated: Sequence[int]) -> np.ndarray:
        logits_V = graphs.step(generated[-1]) if generated else graphs.prefill(observation)
        legal = rule.legal_next(generated, graphs.vocab_size)
        if not np.isfinite(logits_V[legal]).all():
            raise DecodeError(f"the policy's logits at position {len(generated)} are not finite")
        if note is not None:
            note(len(generated), logits_V)
        return logits_V

    return generate(_Given(rule, prefix_N), graphs.vocab_size, logits_of)


class _Given:
    """A rule that leaves one id where one is given."""

    def __init__(self, rule: NextTokenRule, prefix_N: Sequence[int]) -> None:
        self._rule = rule
        self._prefix = [int(token) for token in prefix_N]

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        legal_V = self._rule.legal_next(generated, vocab_size)
        place = len(generated)
        if place >= len(self._prefix) or self._prefix[place] == FREE_TOKEN or not legal_V.any():
            return legal_V
        token = self._prefix[place]
        if not (0 <= token < vocab_size and legal_V[token]):
            raise DecodeError(f"the committed token {token} at position {place} is not legal there")
        only_V = np.zeros_like(legal_V)
        only_V[token] = True
        return only_V


def verify_answers(policy: AutoregressivePolicy, reference: AutoregressivePolicy) -> None:
    """Compares a provider's logits with the CPU's on noise, with every token given, so that a tie does not part the two.

    Raises:
        ConfigError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    vocabulary = policy.bundle.manifest.vocabulary
    first = vocabulary.first_action_token
    probe = {}
    for name, spec in policy.inputs.items():
        if spec.dtype is np.uint8:
            probe[name] = rng.integers(0, 256, spec.shape, dtype=np.uint8)
        elif spec.dtype is np.int64:
            probe[name] = rng.integers(0, max(first, 1), spec.shape, dtype=np.int64)
        else:
            probe[name] = rng.standard_normal(spec.shape).astype(spec.dtype)
    probe[PREFIX_TOKENS] = first + rng.integers(0, vocabulary.num_action_tokens, policy.inputs[PREFIX_TOKENS].shape)
    logits, expected = (graphs.infer(probe)[ACTION_LOGITS][0] for graphs in (policy, reference))
    error = relative_error(logits, expected)
    if not error <= MAX_RELATIVE_ERROR:  # NaN is no error that is small enough
        raise ConfigError(
            f"execution_provider '{policy.provider}' computes this bundle wrongly: its logits differ from the CPU's by {error:.1%}, allowed is "
            f"{MAX_RELATIVE_ERROR:.0%}. Choose cpu, or try another release of the provider"
        )


def _verify_manifest(manifest: Manifest, graphs: CachedGraphs) -> None:
    compare_signature("inputs", observation_inputs(manifest), graphs._prefill.session.get_inputs())
    if graphs.length != manifest.context.length or graphs.vocab_size != manifest.vocabulary.size:
        raise BundleError(
            f"the graphs have a cache of {graphs.length} places and {graphs.vocab_size} ids, the manifest says context.length "
            f"{manifest.context.length} and vocabulary.size {manifest.vocabulary.size}: import the bundle again"
        )


def _mass(logits_V: np.ndarray, legal_V: np.ndarray) -> float:
    """Probability of the legal ids under the whole vocabulary's softmax."""
    weights_V = np.exp(logits_V.astype(np.float64) - logits_V[np.isfinite(logits_V)].max())
    return float(weights_V[legal_V].sum() / np.nansum(weights_V))


def _size(bundle: Bundle) -> int:
    return sum((bundle.directory / name).stat().st_size for name in bundle.manifest.file_names)
