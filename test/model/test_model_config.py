# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model import PolicyConfig


def test_config_survives_json(tiny):
    config = tiny.config()
    assert PolicyConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": "resnet"}, "conv, patch"),
        ({"packing": "none"}, "step, token"),
        ({"width": 30}, "multiple of model.heads"),
        ({"vision_depth": 3}, "vision_depth"),
        ({"vocab_size": 50}, "raise model.vocab_size"),
        ({"cameras": ()}, "at least one camera"),
        ({"cameras": (CameraSpec(name="front", height=40, width=32),)}, "multiples of 16"),
        ({"seen_tokens": (41,)}, "seen_tokens"),
        ({"moved_state": (("x", "elbow"),)}, "moved_state"),
    ],
)
def test_a_wrong_shape_is_refused_with_what_to_do(changes, words, tiny):
    with pytest.raises(ConfigError, match=words):
        tiny.config(**changes)


def test_an_unknown_setting_lists_the_valid_ones(tiny):
    with pytest.raises(ConfigError, match="unknown model setting widht.*width"):
        PolicyConfig.from_dict({**tiny.config().to_dict(), "widht": 3})
