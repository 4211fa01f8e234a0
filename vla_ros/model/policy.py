# SPDX-License-Identifier: Apache-2.0
"""The vision-language-action policy: one transformer, one sequence, one vocabulary (RT-2, arXiv 2307.15818).

Sequence: [front vision, wrist vision, text, state, plan, action]. Vision attends vision; text attends vision and text;
state attends these and itself; plan and action attend everything, and each other in both directions, so that the whole
chunk is decoded in one pass (OpenVLA-OFT, arXiv 2502.19645). Leading action tokens may be committed (`prefix`, real-time
chunking, arXiv 2506.07339): their embedding stands in the place of the mask embedding, and the rest of the chunk continues
from the state in which they end (`Anchor`).

Axes: B frames, K labels of one frame, N = B*K (label n belongs to frame n // K), T text tokens, Q = H*D action tokens
(step-major: h*D + d), P positions of action tokens, D action dimensions, A bins, V vision tokens, L label tokens,
E width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.core.tabletop import PROPRIO_NAMES
from vla_ros.model.config import PolicyConfig, vision_tokens_of
from vla_ros.model.transformer import Block
from vla_ros.model.vision import VisionEncoder

MASKED = -1e9  # added to a score that must not count; finite, so that no graph optimiser can make NaN of it
PLACE_SCALE = 4.0  # parts of the plan's bounds (about 0.6 m) to about standard deviations of the tool's place (0.1 m)
CERTAIN = 30.0  # margin of a committed token's logit: a probability of 1 in float32


@dataclass(frozen=True, kw_only=True)
class PolicyOutput:
    """Logits of one pass.

    action_NQA: over the bins of each action token. phase_NC: over the plan's phase words. point_N2A: over the bins of
    the plan's x and y. pointed_N2: that place in parts of its bounds, by pointing at cells of the first camera. vision_BVC: per token of the first camera, colours then kinds of the object whose centre lies
    in that cell (multi-label). offset_BV2: that centre inside its cell, 0..1 to the right and down.
    """

    action_NQA: Tensor
    phase_NC: Tensor
    point_N2A: Tensor
    pointed_N2: Tensor
    vision_BVC: Tensor
    offset_BV2: Tensor


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The part of a `PolicyOutput` that needs no words."""

    vision_BVC: Tensor
    offset_BV2: Tensor


class Waves(nn.Module):
    """Numbers of size one with their sines and cosines at doubling frequencies, from a wavelength of 8 down.

    They let a small network tell millimetres apart (Tancik et al., arXiv 2006.10739).
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("frequency_F", torch.pi / 4 * 2.0 ** torch.arange(count), persistent=False)

    def forward(self, x_NS: Tensor) -> Tensor:
        """[N, S] to [N, S * (1 + 2 * count)]."""
        phase_NX = (x_NS[..., None] * self.frequency_F).flatten(1)
        return torch.cat([x_NS, phase_NX.sin(), phase_NX.cos()], dim=1)


class Anchor(nn.Module):
    """Where the committed steps of a chunk end: the state from which the free ones go on.

    Free steps are told relative to it and moved by whole bins afterwards, so that a policy that starts from rest and one that
    goes on in flight are the same function of a state.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        spec = config.action
        relative_D = torch.tensor([dim.relative for dim in spec.dims])
        width_D = torch.tensor((spec.high_D - spec.low_D) / spec.num_bins, dtype=torch.float32)
        pairs = [(spec.index(dim), PROPRIO_NAMES.index(entry)) for dim, entry in config.moved_state]
        self._dims, self._entries = [d for d, _ in pairs], [e for _, e in pairs]
        self.register_buffer("low_D", torch.tensor(spec.low_D, dtype=torch.float32), persistent=False)
        self.register_buffer("width_D", width_D, persistent=False)
        self.register_buffer("relative_D", relative_D.float(), persistent=False)
        self.count_HE = nn.Parameter(torch.zeros(spec.horizon + 1, config.width))

    def forward(self, prefix_NQ: Tensor, proprio_NS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state [N, S] after the committed steps, the bins [N, D] by which free steps are moved, how many are committed [N]."""
        prefix_NHD = prefix_NQ.unflatten(1, (-1, self.low_D.shape[0]))
        count_N = (prefix_NHD[:, :, 0] >= 0).sum(1)
        last_N11 = (count_N - 1).clamp_min(0)[:, None, None]
        bin_ND = prefix_NHD.gather(1, last_N11.expand(-1, 1, prefix_NHD.shape[2]))[:, 0] - self.config.first_action_token
        moves_N1 = (count_N > 0)[:, None]
        value_ND = self.low_D + (bin_ND + 0.5) * self.width_D
        value_NM = value_ND[:, self._dims]
        state_NM = proprio_NS[:, self._entries]
        ahead_NM = value_NM + self.relative_D[self._dims] * state_NM
        moved_NS = proprio_NS.index_copy(1, torch.tensor(self._entries, device=proprio_NS.device), torch.where(moves_N1, ahead_NM, state_NM))
        shift_ND = torch.where(moves_N1, bin_ND - self.config.num_bins // 2, 0) * self.relative_D.long()
        return moved_NS, shift_ND, count_N

    def move(self, action_NQA: Tensor, shift_ND: Tensor) -> Tensor:
        """Logits over bins relative to the anchor as logits over bins of the action: bin b comes from bin b - shift."""
        bins = action_NQA.shape[-1]
        shift_NQ1 = shift_ND[:, None].expand(-1, self.config.horizon, -1).flatten(1)[..., None]
        from_NQA = torch.arange(bins, device=shift_ND.device) - shift_NQ1
        known_NQA = (from_NQA >= 0) & (from_NQA < bins)
        moved_NQA = action_NQA.gather(-1, from_NQA.clamp(0, bins - 1))
        return torch.where(known_NQA, moved_NQA, -CERTAIN)


class StateEncoder(nn.Module):
    """Proprioception in physical units to one state token; a learned stand-in where it is withheld."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.register_buffer("mean_S", torch.zeros(config.proprio_dim))
        self.register_buffer("std_S", torch.ones(config.proprio_dim))
        self.waves = Waves(config.wave_count)
        inputs = config.proprio_dim * (1 + 2 * config.wave_count)
        self.layers = nn.Sequential(
            nn.Linear(inputs, config.width), nn.ReLU(), nn.Linear(config.width, config.width)
        )
        self.none_E = nn.Parameter(torch.randn(config.width) * 0.02)

    def forward(self, proprio_BS: Tensor, withheld_B: Tensor | None = None) -> Tensor:
        """State token [B, E]; rows where `withheld_B` is true get the learned `none`."""
        normed_BS = (proprio_BS - self.mean_S) / self.std_S
        state_BE = self.layers(self.waves(normed_BS))
        if withheld_B is None:
            return state_BE
        return torch.where(withheld_B[:, None], self.none_E, state_BE)


class Pointer(nn.Module):
    """The plan token picks words of the instruction, the words pick cells of the picture, the cells say where.

    Vision tokens are taught to say colours and kinds in the vocabulary's own embeddings (`spoken`), so that the words of
    an instruction match the cells that show what they name almost from the first steps on. The result is a place, whose
    regression tells a young network where to look, which the cross-entropy of a far-away bin does not.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.place = nn.Linear(width, 2)
        self.waves = Waves(config.wave_count)
        self.tell = nn.Linear(width + 2 * (1 + 2 * config.wave_count), width)
        self.scale = width**-0.5

    def forward(
        self,
        plan_NE: Tensor,
        text_NTE: Tensor,
        word_NTE: Tensor,
        padded_NT: Tensor,
        front_BVE: Tensor,
        spoken_BVE: Tensor,
        told_N2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The plan token's change [N, E] and the place [N, 2] in parts of its bounds.

        `text_NTE` are the text's features, `word_NTE` its embeddings; `spoken_BVE` what each cell says.
        """
        score_NT = (self.key(text_NTE) @ self.query(plan_NE)[..., None])[..., 0] * self.scale
        weight_NT = (score_NT + padded_NT * MASKED).softmax(-1)
        wanted_NE = (weight_NT[:, None] @ word_NTE)[:, 0] * self.gain
        wanted_BKE = wanted_NE.unflatten(0, (front_BVE.shape[0], -1))
        weight_BKV = (wanted_BKE @ spoken_BVE.transpose(1, 2)).softmax(-1)
        place_BV2 = self.place(front_BVE) + 0.5
        mixed_NX = (weight_BKV @ torch.cat([front_BVE, place_BV2], dim=-1)).flatten(0, 1)
        mixed_NE, place_N2 = mixed_NX[:, :-2], mixed_NX[:, -2:]
        # Bounds are some standard deviations of the state wide: scaled alike, place and state can be compared.
        used_N2 = place_N2 if told_N2 is None else torch.where(told_N2.isnan(), place_N2, told_N2)
        waves_NX = self.waves(PLACE_SCALE * (used_N2 - 0.5))
        return self.tell(torch.cat([mixed_NE, waves_NX], dim=1)), place_N2


class Policy(nn.Module):
    """The network. `forward` serves training and inference; thread-safe only for inference in eval mode."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self._front_tokens = vision_tokens_of(config.cameras[0])
        width, group = config.width, config.tokens_per_position
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.vision = VisionEncoder(config)
        self.state = StateEncoder(config)
        self.anchor = Anchor(config)
        self.text_position_TE = _table(config.text_tokens, width)
        self.state_position_E = _table(width)
        self.plan_position_E = _table(width)
        self.action_position_PE = _table(config.num_action_tokens // group, width)
        self.mask_E = _table(width)
        self.bind_GE = nn.Parameter(torch.randn(group, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm_point = nn.LayerNorm(width)
        self.pointer = Pointer(config)
        self.norm_vision = nn.LayerNorm(width)
        self.norm_label = nn.LayerNorm(width)
        self.read_action = nn.Linear(width, group * width)
        self.read_phase = nn.Linear(width, config.plan_phases)
        self.read_point = nn.Linear(width, 2 * width)
        self.speak = nn.Linear(width, width)
        self.rarity_C = nn.Parameter(torch.full((len(config.seen_tokens),), -4.0))
        self.read_offset = nn.Linear(width, 2)
        self.register_buffer("seen_tokens", torch.tensor(config.seen_tokens), persistent=False)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def forward(
        self,
        images: dict[str, Tensor],
        text_NT: Tensor,
        proprio_BS: Tensor,
        prefix_NQ: Tensor,
        withheld_B: Tensor | None = None,
        told_N2: Tensor | None = None,
    ) -> PolicyOutput:
        """One pass for B frames and their N = B*K labels.

        Args:
            images: uint8 [B, H, W, 3] for each camera's name.
            text_NT: token ids, int64, padded at the end; T may be smaller than `text_tokens`.
            proprio_BS: float32 in physical units.
            prefix_NQ: vocabulary ids of committed action tokens, -1 where free.
            withheld_B: true where the state is replaced by the learned `none`.
            told_N2: places that the plan token is told instead of its own (teacher forcing), NaN where it is left alone.
        """
        vision_BVE = self.vision(images)
        labels = text_NT.shape[0] // proprio_BS.shape[0]
        proprio_NS = proprio_BS.repeat_interleave(labels, dim=0)
        withheld_N = None if withheld_B is None else withheld_B.repeat_interleave(labels, dim=0)
        moved_NS, shift_ND, count_N = self.anchor(prefix_NQ, proprio_NS)
        state_NE = self.state(moved_NS, withheld_N) + self.anchor.count_HE[count_N]
        label_NLE = self._embed_label(text_NT, state_NE, prefix_NQ)
        mask_N1LL = self.label_mask(text_NT)
        for index, block in enumerate(self.blocks):
            vision_BVE, key, value = block.vision(vision_BVE, update=index < self.config.vision_depth)
            if index == self.config.depth - 1:
                label_NLE = block.label(label_NLE, key, value, mask_N1LL, start=text_NT.shape[1] + 1)
                break
            label_NLE = block.label(label_NLE, key, value, mask_N1LL)
            if index == self.config.vision_depth - 1:
                front_BVE = self.norm_vision(vision_BVE[:, : self._front_tokens])
                spoken_BVE = self.speak(front_BVE)
                label_NLE, pointed_N2 = self._point(label_NLE, text_NT, front_BVE, spoken_BVE, told_N2)
        label_NQE = self.norm_label(label_NLE)
        plan_NE, action_NPE = label_NQE[:, 0], label_NQE[:, 1:]
        seen = self._say(front_BVE, spoken_BVE)
        asked_NQE = self.read_action(action_NPE).unflatten(-1, (-1, self.config.width)).flatten(1, 2)
        return PolicyOutput(
            action_NQA=self.anchor.move(self.bin_logits(asked_NQE), shift_ND),
            phase_NC=self.read_phase(plan_NE),
            point_N2A=self.bin_logits(self.read_point(plan_NE).unflatten(-1, (2, self.config.width))),
            pointed_N2=pointed_N2,
            vision_BVC=seen.vision_BVC,
            offset_BV2=seen.offset_BV2,
        )

    def see(self, images: dict[str, Tensor]) -> Seen:
        """What the vision tokens say before any block, without any label: a cheap warm-up, since blocks begin near identity."""
        front_BVE = self.norm_vision(self.vision(images)[:, : self._front_tokens])
        return self._say(front_BVE, self.speak(front_BVE))

    def _say(self, front_BVE: Tensor, spoken_BVE: Tensor) -> Seen:
        said_BVC = spoken_BVE @ self.tokens(self.seen_tokens).t() + self.rarity_C
        return Seen(vision_BVC=said_BVC, offset_BV2=self.read_offset(front_BVE).sigmoid())

    def label_mask(self, text_NT: Tensor) -> Tensor:
        """Mask among label tokens, [N, 1, L, L]: 0 where a query (row) may look at a key (column), else `MASKED`."""
        padded_NT = text_NT == self.config.pad_token
        queries = 1 + self.action_position_PE.shape[0]
        known_NX = padded_NT.new_zeros(padded_NT.shape[0], 1 + queries)
        hidden_NL = torch.cat([padded_NT, known_NX], dim=1)
        text = text_NT.shape[1]
        level_L = torch.tensor([0] * text + [1] + [2] * queries, device=text_NT.device)
        hidden_LL = level_L[None, :] > level_L[:, None]
        return (hidden_NL[:, None, None, :] | hidden_LL).to(self.mask_E.dtype) * MASKED

    def _point(
        self, label_NLE: Tensor, text_NT: Tensor, front_BVE: Tensor, spoken_BVE: Tensor, told_N2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The label stream with what the plan token pointed at, and the place."""
        text = text_NT.shape[1]
        normed_NLE = self.norm_point(label_NLE[:, : text + 2])
        padded_NT = text_NT == self.config.pad_token
        told_NE, pointed_N2 = self.pointer(normed_NLE[:, -1], normed_NLE[:, :text], self.tokens(text_NT), padded_NT, front_BVE, spoken_BVE, told_N2)
        plan_N1E = label_NLE[:, text + 1 : text + 2] + told_NE[:, None]
        return torch.cat([label_NLE[:, : text + 1], plan_N1E, label_NLE[:, text + 2 :]], dim=1), pointed_N2

    def _embed_label(self, text_NT: Tensor, state_NE: Tensor, prefix_NQ: Tensor) -> Tensor:
        text_NTE = self.tokens(text_NT) + self.text_position_TE[: text_NT.shape[1]]
        state_N1E = (state_NE + self.state_position_E)[:, None]
        plan_N1E = self.plan_position_E.expand_as(state_N1E)
        return torch.cat([text_NTE, state_N1E, plan_N1E, self._embed_action(prefix_NQ)], dim=1)

    def _embed_action(self, prefix_NQ: Tensor) -> Tensor:
        """Positions of action tokens, [N, P, E]. The product with `bind_GE` keeps apart which dimension a token is."""
        committed_NQ1 = (prefix_NQ >= 0)[..., None]
        embedded_NQE = torch.where(committed_NQ1, self.tokens(prefix_NQ.clamp_min(0)), self.mask_E)
        group = self.bind_GE.shape[0]
        bound_NPE = (embedded_NQE.unflatten(1, (-1, group)) * self.bind_GE).sum(2)
        return bound_NPE + self.action_position_PE

    def bin_logits(self, asked_E: Tensor) -> Tensor:
        """Logits over the action bins: the vocabulary's own embeddings, restricted to its 256 action ids."""
        first = self.config.first_action_token
        return asked_E @ self.tokens.weight[first : first + self.config.num_bins].t()

    def vocabulary_logits(self, asked_E: Tensor) -> Tensor:
        """Logits over all ids, for prompts whose answer is not an action."""
        return asked_E @ self.tokens.weight.t()


def keep_committed(action_NQA: Tensor, prefix_NQ: Tensor, first_action_token: int) -> Tensor:
    """Logits in which every committed token is certain, so that decoding returns the prefix it was given."""
    bin_A = torch.arange(action_NQA.shape[-1], device=action_NQA.device)
    chosen_NQA = (bin_A == (prefix_NQ[..., None] - first_action_token)).to(action_NQA.dtype)
    return torch.where(prefix_NQ[..., None] >= 0, (chosen_NQA - 1.0) * CERTAIN, action_NQA)


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)
