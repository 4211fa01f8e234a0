# SPDX-License-Identifier: Apache-2.0
"""The codec of a bundle's action tokens."""

from __future__ import annotations

from vla_ros.core.action_codec import QuantileActionCodec
from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.manifest import Manifest

ActionCodec = ActionTokenizer | QuantileActionCodec


def make_codec(manifest: Manifest) -> ActionCodec:
    """Uniform bins, or what ``codec`` says. Without a vocabulary: bins that only describe a continuous action, from 0 on.

    Raises:
        ConfigError: statistics that cannot be decoded.
    """
    if manifest.codec is not None:
        return QuantileActionCodec(manifest.action, manifest.codec, manifest.vocabulary.first_action_token)
    return ActionTokenizer(manifest.action, 0 if manifest.vocabulary is None else manifest.vocabulary.first_action_token)
