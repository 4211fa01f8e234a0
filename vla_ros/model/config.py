# SPDX-License-Identifier: Apache-2.0
"""Shape of the policy network, apart from its weights. Must import the standard library and numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from vla_ros.core.action import ActionSpec
from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.core.tabletop import ACTION_SPEC, CAMERAS, PROPRIO_NAMES, TEXT_TOKENS

STEMS = ("conv", "patch", "vit", "tokens")
FUSIONS = ("sequence", "cross")
FEED_FORWARDS = ("dense", "moe")
ACTION_HEADS = ("tokens", "l1", "flow")
PACKINGS = ("step", "token")
DECODINGS = ("parallel", "autoregressive")
MOVED_STATE = (("x", "tool_x"), ("y", "tool_y"), ("z", "tool_z"), ("yaw", "tool_yaw"), ("gripper", "gripper_joint"))
ACTIVATIONS = ("relu", "relu2", "gelu")
STRIDE = 16  # pixels of a camera image that one vision token covers, both ways


def grid_of(camera: CameraSpec) -> tuple[int, int]:
    """Rows and columns of a camera's vision tokens."""
    return camera.height // STRIDE, camera.width // STRIDE


def vision_tokens_of(camera: CameraSpec) -> int:
    """Number of a camera's vision tokens."""
    rows, columns = grid_of(camera)
    return rows * columns


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Everything needed to build a `Policy` of the same shape again.

    `packing` says how many positions of the sequence the action tokens take: "token" gives each of the H*D action
    tokens a position of its own (RT-2's layout); "step" packs the D tokens of one step into one position (their
    embeddings are bound to their dimension and summed, and one projection per dimension reads them), which makes
    the label stream about 2.4 times shorter. The graph's inputs and outputs are the same.
    `decoding` "parallel" decodes all of a chunk at once; "autoregressive" one position after the other, each given what was said
    before it (`vla_ros.model.decoder`).
    `seen_tokens` are the vocabulary ids of the words for colours, then kinds, that the vision tokens are taught to say.
    `moved_state` pairs an action dimension with the entry of proprioception that it moves: after committed steps the policy
    goes on from the state in which these end.
    `vision_depth` counts the blocks that still change the vision tokens; later blocks only read them.
    `fusion` "cross" replaces the one sequence by cross-modal attention (`vla_ros.model.cross_attention`).
    `stem` "vit" puts `vit_depth` blocks of a vision transformer over `frames` pictures of each camera before the policy's own;
    "tokens" embeds the ids of a frozen image tokenizer of the shape `image_tokens`, from the policy's own vocabulary.
    `feed_forward` "moe" makes each block's feed-forward a mixture of `experts`, of which a token visits `experts_top_k`.
    `action_head` "l1" or "flow" adds a continuous head beside the tokens, whose answer the exported graph gives.
    `touch_dim` above 0 adds a token of contact forces after the state. `answer_tokens` above 0 lets the policy answer questions in
    that many text tokens, the end included; `answer_depth` above 0 gives questions so many layers of their own, and `answer_eye` a closer look
    at the first camera's picture. The first `seen_colours` of `seen_tokens` are colours.
    """

    vocab_size: int
    first_action_token: int
    seen_tokens: tuple[int, ...]
    pad_token: int = 0
    text_tokens: int = TEXT_TOKENS
    cameras: tuple[CameraSpec, ...] = CAMERAS
    proprio_dim: int = len(PROPRIO_NAMES)
    proprio: tuple[str, ...] = PROPRIO_NAMES
    wave_count: int = 4
    action: ActionSpec = ACTION_SPEC
    moved_state: tuple[tuple[str, str], ...] = MOVED_STATE
    plan_phases: int = 8
    width: int = 192
    depth: int = 6
    vision_depth: int = 3
    heads: int = 6
    mlp_ratio: int = 4
    activation: str = "relu"
    stem: str = "conv"
    stem_channels: tuple[int, ...] = (48, 96)
    packing: str = "step"
    decoding: str = "parallel"
    fusion: str = "sequence"
    frames: int = 1
    vit_depth: int = 4
    image_tokens: dict[str, Any] | None = None
    feed_forward: str = "dense"
    experts: int = 4
    experts_top_k: int = 1
    expert_capacity: float = 1.25
    action_head: str = "tokens"
    touch_dim: int = 0
    answer_tokens: int = 0
    answer_depth: int = 0
    answer_eye: bool = False
    seen_colours: int = 0

    def __post_init__(self) -> None:
        _check_choice("stem", self.stem, STEMS)
        _check_choice("packing", self.packing, PACKINGS)
        _check_choice("decoding", self.decoding, DECODINGS)
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("fusion", self.fusion, FUSIONS)
        _check_choice("feed_forward", self.feed_forward, FEED_FORWARDS)
        _check_choice("action_head", self.action_head, ACTION_HEADS)
        self._check_pieces()
        if self.width % self.heads:
            raise ConfigError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if not 0 < self.vision_depth < self.depth:
            raise ConfigError(f"model.vision_depth {self.vision_depth} must lie in 1..depth - 1 ({self.depth - 1})")
        if self.first_image_token + self.num_codes > self.vocab_size:
            raise ConfigError(
                f"action and image ids end at {self.first_image_token + self.num_codes} but the vocabulary has "
                f"{self.vocab_size} ids: raise model.vocab_size"
            )
        if not self.seen_tokens or not all(0 <= token < self.first_action_token for token in self.seen_tokens):
            raise ConfigError(f"model.seen_tokens must be text ids below {self.first_action_token}, got {self.seen_tokens}")
        for dim, entry in self.moved_state:
            if dim not in self.action.names or entry not in self.proprio:
                raise ConfigError(f"model.moved_state: {dim} must be one of {list(self.action.names)}, {entry} of {list(self.proprio)}")
        if not self.cameras:
            raise ConfigError("the policy needs at least one camera: set model.cameras")
        for camera in self.cameras:
            if camera.height % STRIDE or camera.width % STRIDE:
                raise ConfigError(
                    f"camera {camera.name} is {camera.width}x{camera.height}: use multiples of {STRIDE} pixels"
                )

    def _check_pieces(self) -> None:
        """Settings that need one another."""
        if self.frames < 1 or (self.frames > 1 and self.stem != "vit"):
            raise ConfigError(f"model.frames is {self.frames}: it must be at least 1, and several frames need model.stem vit")
        if (self.stem == "tokens") != (self.image_tokens is not None):
            raise ConfigError("model.stem tokens and run.image_tokens (best.pt of `vla train-image-tokens`) go together: set both or neither")
        if self.feed_forward == "moe" and self.fusion == "cross":
            raise ConfigError("model.feed_forward moe needs model.fusion sequence: the cross-modal streams have dense feed-forwards of their own")
        if self.decoding == "autoregressive" and (self.fusion, self.feed_forward, self.action_head) != ("sequence", "dense", "tokens"):
            raise ConfigError("model.decoding autoregressive needs model.fusion sequence, model.feed_forward dense and model.action_head tokens")
        if self.answer_depth and self.fusion == "cross":
            raise ConfigError("model.answer_depth needs model.fusion sequence: with cross-modal attention words change what vision sees")
        if self.answer_depth and not self.answer_tokens:
            raise ConfigError("model.answer_depth needs room for answers: set model.answer_tokens (10 is enough)")
        if self.answer_eye and not (self.answer_depth and 0 < self.seen_colours < len(self.seen_tokens)):
            raise ConfigError("model.answer_eye needs model.answer_depth, layers for questions alone (3 is enough), and data that name colours and kinds")
        if self.answer_eye and self.frames > 1:
            raise ConfigError("model.answer_eye looks at one picture: set model.frames to 1")
        for name in ("touch_dim", "answer_tokens", "answer_depth"):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.{name} must not be negative, got {getattr(self, name)}")

    @property
    def horizon(self) -> int:
        """H: steps of a chunk."""
        return self.action.horizon

    @property
    def action_dims(self) -> int:
        """D: dimensions of a step."""
        return self.action.num_dims

    @property
    def num_bins(self) -> int:
        """A: bins of a dimension."""
        return self.action.num_bins

    @property
    def first_image_token(self) -> int:
        """Id of the first image token; they follow the action tokens."""
        return self.first_action_token + self.num_bins

    @property
    def num_codes(self) -> int:
        """Image tokens in the vocabulary; 0 without an image tokenizer."""
        return self.image_tokens["codes"] if self.image_tokens else 0

    @property
    def num_action_tokens(self) -> int:
        """H*D: tokens in one action chunk."""
        return self.horizon * self.action_dims

    @property
    def num_vision_tokens(self) -> int:
        """Vision tokens of all cameras together."""
        return self.frames * sum(vision_tokens_of(camera) for camera in self.cameras)

    @property
    def tokens_per_position(self) -> int:
        """Action tokens that share one position of the sequence."""
        return self.action_dims if self.packing == "step" else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and checkpoints."""
        return {**asdict(self), "action": self.action.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PolicyConfig:
        """Inverse of `to_dict`; raises ConfigError for a key that no field has."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown model setting {', '.join(unknown)}: valid are {', '.join(sorted(known))}")
        values = dict(values)
        if "cameras" in values:
            values["cameras"] = tuple(CameraSpec.from_dict(camera) for camera in values["cameras"])
        if "action" in values:
            values["action"] = ActionSpec.from_dict(values["action"], "model.action")
        if "moved_state" in values:
            values["moved_state"] = tuple((dim, entry) for dim, entry in values["moved_state"])
        for key in ("stem_channels", "seen_tokens", "proprio"):
            if key in values:
                values[key] = tuple(values[key])
        return cls(**values)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"model.{name} is {value!r}: valid are {', '.join(choices)}")
