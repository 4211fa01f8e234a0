# SPDX-License-Identifier: Apache-2.0
"""The vision-language-action policy: one transformer, one sequence, one vocabulary (RT-2, arXiv 2307.15818).

Sequence: [front vision, wrist vision, text, state, plan, action]. Vision attends vision; text attends vision and text;
state attends these and itself; plan and action attend everything, and each other in both directions, so that the whole
chunk is decoded in one pass (OpenVLA-OFT, arXiv 2502.19645); or, with `decoding` autoregressive, each position of action tokens attends
those before it and is given what they said (`vla_ros.model.decoder`). A touch token may follow the state. Questions get another
sequence, [vision, text, answer], of which the answer is decoded token by token (`answer`). Leading action tokens may be committed (`prefix`, real-time
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

from vla_ros.core.errors import ConfigError
from vla_ros.model.answers import AnswerBlocks, AnswerReader, answer_mask
from vla_ros.model.attention import MASKED
from vla_ros.model.config import PolicyConfig, vision_tokens_of
from vla_ros.model.eye import Eye, ObjectTable, TableFinder
from vla_ros.model.heads import ActionHead, TouchEncoder, logits_of_actions, make_action_head
from vla_ros.model.pointer import Finder, Pointer
from vla_ros.model.state import CERTAIN, Anchor, StateEncoder
from vla_ros.model.transformer import Block
from vla_ros.model.vision import make_vision


@dataclass(frozen=True, kw_only=True)
class PolicyOutput:
    """Logits of one pass.

    action_NQA: over the bins of each action token. phase_NC: over the plan's phase words. point_N2A: over the bins of
    the plan's x and y. pointed_N2: that place in parts of its bounds, by pointing at cells of the first camera.
    vision_BVC: per token of the first camera, colours then kinds of the object whose centre lies in that cell (multi-label).
    offset_BV2: that centre inside its cell, 0..1 to the right and down. step_NHE: features of each step, for the continuous
    head. shift_NHD: what is added to that head's answers, since free steps are told relative to the `Anchor`.
    """

    action_NQA: Tensor
    phase_NC: Tensor
    point_N2A: Tensor
    pointed_N2: Tensor
    vision_BVC: Tensor
    offset_BV2: Tensor
    step_NHE: Tensor
    shift_NHD: Tensor


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The part of a `PolicyOutput` that needs no words."""

    vision_BVC: Tensor
    offset_BV2: Tensor


class Policy(nn.Module):
    """The network. `forward` serves training and inference; thread-safe only for inference in eval mode."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.front_tokens = vision_tokens_of(config.cameras[0])
        width, group = config.width, config.tokens_per_position
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.vision = make_vision(config, self.tokens)
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
        self.action_head: ActionHead | None = None
        if config.action_head != "tokens":
            self.action_head = make_action_head(config.action_head, config.action, width)
        self.touch = TouchEncoder(config.touch_dim, width) if config.touch_dim else None
        self.touch_position_E = _table(width) if config.touch_dim else None
        self.answers = AnswerReader(config.answer_tokens, width) if config.answer_tokens else None
        self.finder: nn.Module | None = None
        if config.answer_tokens:
            self.finder = TableFinder(config) if config.answer_eye else Finder(config)
        self.answer_blocks = AnswerBlocks(config) if config.answer_depth else None
        self.eye = Eye(config) if config.answer_eye else None
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
        touch_BP: Tensor | None = None,
        given_NQ: Tensor | None = None,
    ) -> PolicyOutput:
        """One pass for B frames and their N = B*K labels.

        Args:
            images: uint8 [B, H, W, 3] for each camera's name.
            text_NT: token ids, int64, padded at the end; T may be smaller than `text_tokens`.
            proprio_BS: float32 in physical units.
            prefix_NQ: vocabulary ids of committed action tokens, -1 where free.
            withheld_B: true where the state is replaced by the learned `none`.
            told_N2: places that the plan token is told instead of its own (teacher forcing), NaN where it is left alone.
            touch_BP: contact forces in N, NaN where not measured; None is not measured at all.
            given_NQ: vocabulary ids of all action tokens (teacher forcing); needed, and only read, where `decoding` is autoregressive.
        """
        words = text_NT.shape[1]
        context_NLE, shift_ND = self.context(text_NT, proprio_BS, prefix_NQ, withheld_B, touch_BP)
        label_NLE = torch.cat([context_NLE, self._embed_action(self._before(prefix_NQ, given_NQ, shift_ND))], dim=1)
        mask_N1LL = self.label_mask(text_NT)
        vision_BVE, read, label_NLE = self._look(self.vision(images), label_NLE, mask_N1LL, words)
        front_BVE = self.norm_vision(vision_BVE[:, : self.front_tokens])
        spoken_BVE = self.speak(front_BVE)
        label_NLE, pointed_N2 = self.point(label_NLE, text_NT, front_BVE, spoken_BVE, told_N2)
        label_NQE = self._think(read, label_NLE, mask_N1LL, words, start=words + self._body_tokens)
        label_NQE = self.norm_label(label_NQE)
        action_NQA = self.anchor.move(self.action_logits(label_NQE[:, 1:]), self.anchor.per_token(shift_ND))
        return self.answer_of(label_NQE, self.say(front_BVE, spoken_BVE), pointed_N2, shift_ND, action_NQA)

    def answer(self, images: dict[str, Tensor], text_NT: Tensor, answer_NL: Tensor) -> Tensor:
        """Logits of each answer token over the text vocabulary, [N, L, text ids]; token i has read the tokens before it.

        Args:
            images: as `forward`; cameras but the first may be absent.
            text_NT: token ids of the question's prompt, padded at the end.
            answer_NL: token ids of the answer so far; what stands at i and behind it changes nothing for token i.
        """
        return self.answer_with_table(images, text_NT, answer_NL)[0]

    def answer_with_table(self, images: dict[str, Tensor], text_NT: Tensor, answer_NL: Tensor) -> tuple[Tensor, ObjectTable | None]:
        """The same, and the table of objects that it was read from, where `answer_eye` makes one."""
        if self.answers is None:
            raise ConfigError("this policy answers no questions: set model.answer_tokens and train it on questions")
        words, table = text_NT.shape[1], None
        word_NTE = self._words_of_questions(text_NT)
        label_NLE = torch.cat([word_NTE + self.text_position_TE[:words], self.answers(self.tokens(answer_NL))], dim=1)
        mask_N1LL = answer_mask(text_NT == self.config.pad_token, answer_NL.shape[1]).to(label_NLE.dtype) * MASKED
        if self.answer_blocks is None:
            vision_BVE, read, label_NLE = self._look(self.vision(images), label_NLE, mask_N1LL, words)
            label_NLE = self._think(read, self._find(vision_BVE, label_NLE, word_NTE), mask_N1LL, words, start=words)
        else:
            vision_BVE = self._see_alone(images)
            if self.eye is not None:
                picture_BHWC = images[self.config.cameras[0].name]
                cell_BVE, table = self.eye(picture_BHWC, self.norm_vision(vision_BVE[:, : self.front_tokens]))
                vision_BVE = torch.cat([cell_BVE, self.eye.tokens_of(table)], dim=1)
                label_NLE = self._find_in(table, label_NLE, words)
            else:
                label_NLE = self._find(vision_BVE, label_NLE, word_NTE)
            label_NLE = self.answer_blocks(vision_BVE, label_NLE, mask_N1LL)[:, words:]
        return self.answers.read(self.norm_label(label_NLE)) @ self.tokens.weight[: self.config.first_action_token].t(), table

    def _words_of_questions(self, ids_X: Tensor) -> Tensor:
        """Embeddings of token ids; questions have what they need of their own added."""
        word_XE = self.tokens(ids_X)
        return word_XE if self.answer_blocks is None else word_XE + self.answer_blocks.words(ids_X)

    def _find(self, vision_BVE: Tensor, label_NLE: Tensor, word_NTE: Tensor) -> Tensor:
        """The label stream of a question whose words have found their cells."""
        words = word_NTE.shape[1]
        front_BVE = self.norm_vision(vision_BVE[:, : self.front_tokens])
        found_NTE = self.finder(self.norm_point(label_NLE[:, :words]), word_NTE, self.speak(front_BVE), self.read_offset(front_BVE).sigmoid())
        return torch.cat([label_NLE[:, :words] + found_NTE, label_NLE[:, words:]], dim=1)

    def _find_in(self, table: ObjectTable, label_NLE: Tensor, words: int) -> Tensor:
        """The same, its words found among the objects of a table."""
        name_RE = self.finder.names(self._words_of_questions)
        found_NTE = self.finder(self.norm_point(label_NLE[:, :words]), name_RE, table)
        return torch.cat([label_NLE[:, :words] + found_NTE, label_NLE[:, words:]], dim=1)

    def _see_alone(self, images: dict[str, Tensor]) -> Tensor:
        """Vision after the layers that change it, [B, V, E], where no label stream goes with it."""
        vision_BVE = self.vision(images)
        for block in self.blocks[: self.config.vision_depth]:
            vision_BVE, _, _ = block.vision(vision_BVE, update=True)
        return vision_BVE

    def _look(self, vision_BVE: Tensor, label_NLE: Tensor, mask_N1LL: Tensor, words: int) -> tuple[Tensor, Tensor, Tensor]:
        """The layers that change vision: what vision sees without any words, what later layers read of it, and the label stream."""
        for block in self.blocks[: self.config.vision_depth]:
            vision_BVE, key, value = block.vision(vision_BVE, update=True)
            label_NLE = block.label(label_NLE, key, value, mask_N1LL)
        return vision_BVE, vision_BVE, label_NLE

    def _think(self, read_BVE: Tensor, label_NLE: Tensor, mask_N1LL: Tensor, words: int, start: int) -> Tensor:
        """The other layers, which only read vision: the label stream from `start` on."""
        *others, last = self.blocks[self.config.vision_depth :]
        for block in others:
            _, key, value = block.vision(read_BVE, update=False)
            label_NLE = block.label(label_NLE, key, value, mask_N1LL)
        _, key, value = last.vision(read_BVE, update=False)
        return last.label(label_NLE, key, value, mask_N1LL, start=start)

    def chunk_logits(self, output: PolicyOutput) -> Tensor:
        """What decoding reads, [N, Q, A]: the tokens' logits, or those of a continuous head's answer if there is such a head."""
        head = self.action_head
        if head is None:
            return output.action_NQA
        return logits_of_actions(head(output.step_NHE) + output.shift_NHD, head.low_D, head.high_D, self.config.num_bins)

    @property
    def _body_tokens(self) -> int:
        """State, and touch if there is one."""
        return 1 + (self.touch is not None)

    def context(
        self, text_NT: Tensor, proprio_BS: Tensor, prefix_NQ: Tensor, withheld_B: Tensor | None = None, touch_BP: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The label stream up to the plan token [N, L, E], and the bins by which free steps are moved [N, D]."""
        labels = text_NT.shape[0] // proprio_BS.shape[0]
        withheld_N = None if withheld_B is None else withheld_B.repeat_interleave(labels, dim=0)
        moved_NS, shift_ND, count_N = self.anchor(prefix_NQ, proprio_BS.repeat_interleave(labels, dim=0))
        body = [self.state(moved_NS, withheld_N) + self.anchor.count_HE[count_N] + self.state_position_E]
        if self.touch is not None:
            if touch_BP is None:
                touch_BP = torch.full((len(proprio_BS), self.config.touch_dim), torch.nan, device=proprio_BS.device)
            body.append((self.touch(touch_BP, withheld_B) + self.touch_position_E).repeat_interleave(labels, dim=0))
        plan_N1E = self.plan_position_E.expand_as(body[0])[:, None]
        return torch.cat([self._embed_text(text_NT), torch.stack(body, dim=1), plan_N1E], dim=1), shift_ND

    def answer_of(self, label_NQE: Tensor, seen: Seen, pointed_N2: Tensor, shift_ND: Tensor, action_NQA: Tensor) -> PolicyOutput:
        """What the heads read of normed features: plan token first, then action tokens, whose logits are known."""
        plan_NE, action_NPE = label_NQE[:, 0], label_NQE[:, 1:]
        return PolicyOutput(
            action_NQA=action_NQA,
            phase_NC=self.read_phase(plan_NE),
            point_N2A=self.bin_logits(self.read_point(plan_NE).unflatten(-1, (2, self.config.width))),
            pointed_N2=pointed_N2,
            vision_BVC=seen.vision_BVC,
            offset_BV2=seen.offset_BV2,
            step_NHE=action_NPE.unflatten(1, (self.config.horizon, -1)).mean(2),
            shift_NHD=(shift_ND * self.anchor.width_D)[:, None].expand(-1, self.config.horizon, -1),
        )

    def see(self, images: dict[str, Tensor]) -> Seen:
        """What the vision tokens say before any block, without any label: a cheap warm-up, since blocks begin near identity."""
        front_BVE = self.norm_vision(self.vision(images)[:, : self.front_tokens])
        return self.say(front_BVE, self.speak(front_BVE))

    def say(self, front_BVE: Tensor, spoken_BVE: Tensor) -> Seen:
        """What the first camera's tokens say."""
        said_BVC = spoken_BVE @ self.tokens(self.seen_tokens).t() + self.rarity_C
        return Seen(vision_BVC=said_BVC, offset_BV2=self.read_offset(front_BVE).sigmoid())

    def label_mask(self, text_NT: Tensor) -> Tensor:
        """Mask among label tokens, [N, 1, L, L]: 0 where a query (row) may look at a key (column), else `MASKED`."""
        padded_NT = text_NT == self.config.pad_token
        queries = 1 + self.action_position_PE.shape[0]
        body = self._body_tokens
        known_NX = padded_NT.new_zeros(padded_NT.shape[0], body + queries)
        hidden_NL = torch.cat([padded_NT, known_NX], dim=1)
        text = text_NT.shape[1]
        levels = range(2, 2 + queries) if self.config.decoding == "autoregressive" else [2] * queries
        level_L = torch.tensor([0] * text + [1] * body + list(levels), device=text_NT.device)
        hidden_LL = level_L[None, :] > level_L[:, None]
        return (hidden_NL[:, None, None, :] | hidden_LL).to(self.mask_E.dtype) * MASKED

    def point(
        self, label_NLE: Tensor, text_NT: Tensor, front_BVE: Tensor, spoken_BVE: Tensor, told_N2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The label stream with what the plan token pointed at, and the place."""
        text = text_NT.shape[1]
        plan = text + self._body_tokens
        normed_NLE = self.norm_point(label_NLE[:, : plan + 1])
        padded_NT = text_NT == self.config.pad_token
        told_NE, pointed_N2 = self.pointer(normed_NLE[:, -1], normed_NLE[:, :text], self.tokens(text_NT), padded_NT, front_BVE, spoken_BVE, told_N2)
        plan_N1E = label_NLE[:, plan : plan + 1] + told_NE[:, None]
        return torch.cat([label_NLE[:, :plan], plan_N1E, label_NLE[:, plan + 1 :]], dim=1), pointed_N2

    def _before(self, prefix_NQ: Tensor, given_NQ: Tensor | None, shift_ND: Tensor) -> Tensor:
        """What stands at the positions of action tokens, [N, Q]: what is committed, or what is said one position earlier."""
        if self.config.decoding == "parallel":
            return prefix_NQ
        if given_NQ is None:
            raise ConfigError("an autoregressive policy reads its chunk in training (given_NQ), and decodes one with vla_ros.model.decoder")
        relative_NQ = self.relative_ids(given_NQ, self.anchor.per_token(shift_ND))
        group = self.config.tokens_per_position
        return torch.cat([relative_NQ.new_full((len(relative_NQ), group), -1), relative_NQ[:, :-group]], dim=1)

    def relative_ids(self, given_NQ: Tensor, shift_NQ: Tensor) -> Tensor:
        """Ids of action tokens told from where the committed steps end, as the network itself tells free steps."""
        first = self.config.first_action_token
        return first + (given_NQ - first - shift_NQ).clamp(0, self.config.num_bins - 1)

    def _embed_text(self, text_NT: Tensor) -> Tensor:
        return self.tokens(text_NT) + self.text_position_TE[: text_NT.shape[1]]

    def _embed_action(self, ids_NQ: Tensor) -> Tensor:
        return self.bind(ids_NQ) + self.action_position_PE

    def bind(self, ids_NQ: Tensor) -> Tensor:
        """Embeddings of positions of action tokens, [N, P, E], -1 is none. The product with `bind_GE` keeps apart which dimension a token is."""
        known_NQ1 = (ids_NQ >= 0)[..., None]
        embedded_NQE = torch.where(known_NQ1, self.tokens(ids_NQ.clamp_min(0)), self.mask_E)
        return (embedded_NQE.unflatten(1, (-1, self.config.tokens_per_position)) * self.bind_GE).sum(2)

    def action_logits(self, action_NPE: Tensor) -> Tensor:
        """What normed positions of action tokens say, told from the anchor, [N, Q, A]."""
        return self.bin_logits(self.read_action(action_NPE).unflatten(-1, (-1, self.config.width)).flatten(1, 2))

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
