# SPDX-License-Identifier: Apache-2.0
"""Llama's decoder (arXiv 2302.13971, 2307.09288) with a cache of fixed size, as two passes: a whole sequence, and one more token.

Keys are cached behind their rotation, as transformers does. Norms and softmax are computed in float32 whatever the weights are.
Axes: S sequence, L places of the cache, E width, G key/value heads, R query heads for each of them, C channels of a head, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.core.errors import ConfigError
from vla_ros.core.schema import Fields
from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.graphs import Source
from vla_ros.importers.towers import Linear

_MASKED = -1e30  # far below any score, and finite in float32


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes; the defaults are those of transformers' LlamaConfig, which a checkpoint's config.json leaves out where they hold."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> LlamaConfig:
        """Reads a ``text_config``.

        Raises:
            ConfigError: another architecture, or a variant of Llama that this release does not build; names the key.
        """
        fields = Fields(data, where)
        kind = fields.text("model_type", "llama")
        if kind != "llama":
            raise fields.refuse(f"'model_type' is {kind!r}: this release imports llama")
        plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": None}
        for key, value in plain.items():
            if fields.raw(key, value) not in (value, None):
                raise fields.refuse(f"'{key}' is {data[key]!r}: this release builds a Llama with {value!r}")
        rope = fields.raw("rope_parameters", None) or {}
        if rope.get("rope_type", "default") != "default":
            raise fields.refuse(f"'rope_parameters' has the type {rope['rope_type']!r}: this release builds a Llama with 'default'")
        default = cls()
        heads = fields.integer("num_attention_heads", 1, default=default.num_attention_heads)
        hidden = fields.integer("hidden_size", 1, default=default.hidden_size)
        head_dim = fields.raw("head_dim", None) or hidden // heads
        config = cls(
            vocab_size=fields.integer("vocab_size", 2, default=default.vocab_size),
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size", 1, default=default.intermediate_size),
            num_hidden_layers=fields.integer("num_hidden_layers", 1, default=default.num_hidden_layers),
            num_attention_heads=heads,
            num_key_value_heads=fields.raw("num_key_value_heads", None) or heads,
            head_dim=head_dim,
            rms_norm_eps=fields.number("rms_norm_eps", default=default.rms_norm_eps),
            rope_theta=float(rope.get("rope_theta", fields.raw("rope_theta", default.rope_theta))),
            max_position_embeddings=fields.integer("max_position_embeddings", 1, default=default.max_position_embeddings),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=default.tie_word_embeddings),
        )
        if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
            raise fields.refuse(
                f"{config.num_attention_heads} heads, {config.num_key_value_heads} key/value heads and {config.head_dim} channels do not fit"
            )
        return config


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype, device="meta"))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to the same."""
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.epsilon)).to(x.dtype) * self.weight


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: LlamaConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        width, wide, narrow = config.hidden_size, config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.norm1, self.norm2 = (RmsNorm(width, config.rms_norm_eps, dtype) for _ in range(2))
        self.q, self.k, self.v = (Linear(width, size, dtype, bias=False) for size in (wide, narrow, narrow))
        self.o = Linear(wide, width, dtype, bias=False)
        self.gate, self.up = (Linear(width, config.intermediate_size, dtype, bias=False) for _ in range(2))
        self.down = Linear(config.intermediate_size, width, dtype, bias=False)

    def project(self, x_1SE: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [1, G, R, S, C], keys and values [1, G, S, C]; queries and keys turned by their positions."""
        config, (_, length, _) = self.config, x_1SE.shape
        groups, channels = config.num_key_value_heads, config.head_dim
        x_1SE = self.norm1(x_1SE)
        q = self.q(x_1SE).reshape(1, length, groups, -1, channels).permute(0, 2, 3, 1, 4)
        k, v = (part(x_1SE).reshape(1, length, groups, channels).transpose(1, 2) for part in (self.k, self.v))
        return _rotate(q, cos_SC, sin_SC), _rotate(k, cos_SC, sin_SC), v

    def finish(self, x_1SE: Tensor, q: Tensor, k_1GLC: Tensor, v_1GLC: Tensor, hidden_SL: Tensor) -> Tensor:
        """Attention over the places that are not hidden, and the perceptron."""
        scores = torch.matmul(q * self.config.head_dim**-0.5, k_1GLC.transpose(-2, -1).unsqueeze(2))
        scores = torch.where(hidden_SL, _MASKED, scores.float())
        mixed = torch.matmul(torch.softmax(scores, dim=-1).to(q.dtype), v_1GLC.unsqueeze(2))
        x_1SE = x_1SE + self.o(mixed.permute(0, 3, 1, 2, 4).reshape(1, x_1SE.shape[1], -1))
        y_1SE = self.norm2(x_1SE)
        return x_1SE + self.down(F.silu(self.gate(y_1SE)) * self.up(y_1SE))


class Llama(nn.Module):
    """The decoder.

    Args:
        config: sizes.
        length: L, places of the cache.
        dtype: of weights and cache.
    """

    def __init__(self, config: LlamaConfig, length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.length = config, length
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device="meta"))
        self.cos, self.sin = (nn.Parameter(torch.empty(length, config.head_dim, device="meta")) for _ in range(2))
        self.layers = nn.ModuleList(Layer(config, dtype) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.head = Linear(config.hidden_size, config.vocab_size, dtype, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [1, S] to [1, S, E]."""
        return F.embedding(ids, self.embedding)

    def read(self, x_1SE: Tensor, filled_1: Tensor) -> tuple[Tensor, ...]:
        """A sequence from its begin on.

        Args:
            x_1SE: embeddings; those behind ``filled_1`` are padding.
            filled_1: int64 [1], how many of them count.

        Returns:
            Logits float32 [1, V] of what follows the last one that counts, then keys and values [1, G, L, C] of each layer.
        """
        length = x_1SE.shape[1]
        places_S = torch.arange(length, device=x_1SE.device)
        hidden_SS = places_S[None, :] > places_S[:, None]
        cache = []
        for layer in self.layers:
            q, k, v = layer.project(x_1SE, self.cos[:length], self.sin[:length])
            x_1SE = layer.finish(x_1SE, q, k, v, hidden_SS)
            cache += [F.pad(part, (0, 0, 0, self.length - length)) for part in (k, v)]
        return (self.logits(torch.index_select(x_1SE, 1, filled_1 - 1)), *cache)

    def add(self, token_11: Tensor, position_1: Tensor, cache: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One more token.

        Args:
            token_11: int64 [1, 1].
            position_1: int64 [1], its place.
            cache: keys and values of each layer.

        Returns:
            Logits float32 [1, V], then the cache with this token in it.
        """
        x_11E = self.embed(token_11)
        places_L = torch.arange(self.length, device=x_11E.device)
        here_L1, hidden_1L = (places_L == position_1)[:, None], (places_L > position_1)[None]
        cos_1C, sin_1C = (torch.index_select(table, 0, position_1) for table in (self.cos, self.sin))
        grown = []
        for layer, past_k, past_v in zip(self.layers, cache[0::2], cache[1::2]):
            q, k, v = layer.project(x_11E, cos_1C, sin_1C)
            k, v = torch.where(here_L1, k, past_k), torch.where(here_L1, v, past_v)
            x_11E = layer.finish(x_11E, q, k, v, hidden_1L)
            grown += [k, v]
        return (self.logits(x_11E), *grown)

    def logits(self, x_11E: Tensor) -> Tensor:
        """float32 [1, V]."""
        return self.head(self.norm(x_11E))[:, 0].float()


def _rotate(x: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
    """Turns channel c and channel c + C/2 as one pair, by the position's angle (arXiv 2104.09864, in transformers' order of channels)."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x.float() * cos_SC + turned * sin_SC).to(x.dtype)


def rotation_tables(config: LlamaConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L, C] of each position."""
    inverse_C = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
    angles_LC = torch.outer(torch.arange(length, dtype=torch.float32), inverse_C).repeat(1, 2)
    return angles_LC.cos(), angles_LC.sin()


def llama_sources(checkpoint: Checkpoint, prefix: str, config: LlamaConfig, length: int, name: str) -> dict[str, Source]:
    """What reads each parameter of a ``Llama``.

    Args:
        checkpoint: with the weights under ``prefix``, in transformers' names.
        prefix: such as ``language_model``.
        config: sizes.
        length: L.
        name: of the decoder in the module that is exported.

    Raises:
        ConfigError: the context window is longer than the model was made for.
    """
    if length > config.max_position_embeddings:
        raise ConfigError(
            f"the context window of {length} tokens is longer than the model's {config.max_position_embeddings}: lower --text-tokens"
        )

    def plain(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}.{key}")

    def turned(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}.{key}").t()

    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    sources: dict[str, Source] = {
        "embedding": plain("model.embed_tokens.weight"),
        "norm.weight": plain("model.norm.weight"),
        "head.weight": turned(head),
        "cos": lambda: rotation_tables(config, length)[0],
        "sin": lambda: rotation_tables(config, length)[1],
    }
    parts = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
    parts |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    for layer in range(config.num_hidden_layers):
        here, there = f"layers.{layer}", f"model.layers.{layer}"
        sources |= {f"{here}.{own}.weight": turned(f"{there}.{key}.weight") for own, key in parts.items()}
        sources |= {f"{here}.norm1.weight": plain(f"{there}.input_layernorm.weight")}
        sources |= {f"{here}.norm2.weight": plain(f"{there}.post_attention_layernorm.weight")}
    return {f"{name}.{key}": source for key, source in sources.items()}
