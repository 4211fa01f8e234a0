# SPDX-License-Identifier: Apache-2.0
"""Beside the tokens: a continuous action head (regression or flow matching) and a token for touch.

Values of actions are scaled to -1..1 of their bounds inside, and are in physical units outside.

Axes: N labels, H steps, D action dimensions, E width, A bins, B frames, P touch entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vla_ros.core.action import ActionSpec
from vla_ros.core.errors import ConfigError

HEADS = ("l1", "flow")


class ActionHead(nn.Module):
    """What both heads share: the bounds of the action, which travel with the weights."""

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.register_buffer("low_D", torch.tensor(spec.low_D, dtype=torch.float32))
        self.register_buffer("high_D", torch.tensor(spec.high_D, dtype=torch.float32))

    def forward(self, feature_NHE: Tensor) -> Tensor:
        """Actions in physical units, inside their bounds, [N, H, D]; deterministic."""
        raise NotImplementedError

    def loss(self, feature_NHE: Tensor, action_NHD: Tensor, weight_NH: Tensor | None = None) -> Tensor:
        """Training loss against actions in physical units; `weight_NH` weighs the steps (0 = committed, does not count)."""
        raise NotImplementedError

    def normalise(self, action_NHD: Tensor) -> Tensor:
        """Physical units to -1..1."""
        return (action_NHD - self.low_D) / (self.high_D - self.low_D) * 2.0 - 1.0

    def denormalise(self, scaled_NHD: Tensor) -> Tensor:
        """-1..1 to physical units; what lies outside is put on the bound."""
        return self.low_D + (scaled_NHD.clamp(-1.0, 1.0) + 1.0) * 0.5 * (self.high_D - self.low_D)


class RegressionHead(ActionHead):
    """One perceptron per step, trained on the mean absolute error (OpenVLA-OFT, arXiv 2502.19645).

    It answers the median of what was demonstrated, which lies between two ways around an obstacle; see `FlowHead`.
    """

    def __init__(self, spec: ActionSpec, width: int) -> None:
        super().__init__(spec)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, spec.num_dims))

    def forward(self, feature_NHE: Tensor) -> Tensor:
        """As `ActionHead.forward`."""
        return self.denormalise(self.layers(feature_NHE))

    def loss(self, feature_NHE: Tensor, action_NHD: Tensor, weight_NH: Tensor | None = None) -> Tensor:
        """Mean absolute error in parts of half the range."""
        error_NH = (self.layers(feature_NHE) - self.normalise(action_NHD)).abs().mean(-1)
        return weighted_mean(error_NH, weight_NH)


class FlowHead(ActionHead):
    """Flow matching along straight lines (Lipman et al., arXiv 2210.02747; for actions π0, arXiv 2410.24164).

    x_t = (1 - t) noise + t action. The network learns the velocity action - noise from x_t, t and the features; from noise,
    Euler steps along it end at one of the demonstrated actions instead of between them.
    A graph has no source of noise: `forward` starts from one draw that was made with the weights and is saved with them.
    """

    def __init__(self, spec: ActionSpec, width: int, steps: int = 10, time_waves: int = 6) -> None:
        super().__init__(spec)
        if steps < 1:
            raise ConfigError(f"a flow needs at least 1 step, got {steps}")
        self.steps = steps
        self.register_buffer("start_HD", torch.randn(*spec.shape))
        self.register_buffer("frequency_W", math.pi * 2.0 ** torch.arange(time_waves), persistent=False)
        self.read_step = nn.Linear(spec.num_dims, width)
        self.read_chunk = nn.Linear(spec.num_tokens, width)
        self.read_time = nn.Linear(1 + 2 * time_waves, width)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, spec.num_dims))

    def velocity(self, noisy_NHD: Tensor, time_N: Tensor, feature_NHE: Tensor) -> Tensor:
        """Estimated action - noise, [N, H, D], at time 0 (noise) to 1 (action)."""
        wave_NW = time_N[:, None] * self.frequency_W
        time_NE = self.read_time(torch.cat([time_N[:, None], wave_NW.sin(), wave_NW.cos()], dim=-1))
        whole_NE = self.read_chunk(noisy_NHD.flatten(1)) + time_NE
        return self.layers(feature_NHE + self.read_step(noisy_NHD) + whole_NE[:, None])

    def forward(self, feature_NHE: Tensor) -> Tensor:
        """As `ActionHead.forward`, from the saved noise."""
        return self.sample(feature_NHE, self.start_HD.expand(feature_NHE.shape[0], -1, -1))

    def sample(self, feature_NHE: Tensor, noise_NHD: Tensor) -> Tensor:
        """Actions in physical units that the given standard normal noise flows to, [N, H, D]."""
        return self.denormalise(integrate(lambda x, t: self.velocity(x, t, feature_NHE), noise_NHD, self.steps))

    def loss(self, feature_NHE: Tensor, action_NHD: Tensor, weight_NH: Tensor | None = None) -> Tensor:
        """Mean squared error of the velocity at one random time and noise per label."""
        scaled_NHD = self.normalise(action_NHD)
        noise_NHD = torch.randn_like(scaled_NHD)
        time_N = torch.rand(len(scaled_NHD), device=scaled_NHD.device)
        noisy_NHD = noise_NHD.lerp(scaled_NHD, time_N[:, None, None])
        error_NH = (self.velocity(noisy_NHD, time_N, feature_NHE) - (scaled_NHD - noise_NHD)).square().mean(-1)
        return weighted_mean(error_NH, weight_NH)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], start_NHD: Tensor, steps: int) -> Tensor:
    """Euler steps of dx/dt = velocity(x, t) from t = 0 to 1; `time_N` is given per label."""
    x_NHD = start_NHD
    for step in range(steps):
        time_N = torch.full((start_NHD.shape[0],), step / steps, dtype=start_NHD.dtype, device=start_NHD.device)
        x_NHD = x_NHD + velocity(x_NHD, time_N) / steps
    return x_NHD


def weighted_mean(error_NH: Tensor, weight_NH: Tensor | None) -> Tensor:
    """Mean over steps by weight; 0 if all weights are 0."""
    if weight_NH is None:
        return error_NH.mean()
    return (error_NH * weight_NH).sum() / weight_NH.sum().clamp_min(1e-9)


def make_action_head(kind: str, spec: ActionSpec, width: int) -> ActionHead:
    """A head of `HEADS`."""
    if kind not in HEADS:
        raise ConfigError(f"action head is {kind!r}: valid are {', '.join(HEADS)}")
    return RegressionHead(spec, width) if kind == "l1" else FlowHead(spec, width)


def logits_of_actions(action_NHD: Tensor, low_D: Tensor, high_D: Tensor, num_bins: int) -> Tensor:
    """Logits over bins whose argmax is the bin that holds each value, [N, H*D, A].

    They let a continuous head answer with a graph of the same outputs as the tokens, at the resolution of a bin: a Gaussian
    of one bin's deviation around the value. A value on the upper bound belongs to the last bin.
    """
    position_NHD = (action_NHD - low_D) / (high_D - low_D) * num_bins
    centre_NQ = position_NHD.floor().clamp(0, num_bins - 1).flatten(1) + 0.5
    middle_A = torch.arange(num_bins, dtype=action_NHD.dtype, device=action_NHD.device) + 0.5
    return -0.5 * (middle_A - centre_NQ[..., None]).square()


class TouchEncoder(nn.Module):
    """Contact forces of the gripper to one token; a learned stand-in where they were not measured.

    Forces span decades between a touch and a squeeze, so that a signed logarithm comes first: about linear below `unit_n` newtons.
    """

    def __init__(self, entries: int, width: int, unit_n: float = 1.0) -> None:
        super().__init__()
        if entries < 1 or unit_n <= 0:
            raise ConfigError(f"touch needs at least 1 entry and a positive unit_n, got {entries} and {unit_n}")
        self.unit_n = unit_n
        self.layers = nn.Sequential(nn.Linear(entries, width), nn.ReLU(), nn.Linear(width, width))
        self.none_E = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, force_BP: Tensor, withheld_B: Tensor | None = None) -> Tensor:
        """Touch token [B, E].

        Args:
            force_BP: newtons, one entry a finger (or a finger's axis). A row with NaN was not measured and gets the stand-in.
            withheld_B: true where the stand-in is taken on purpose.
        """
        missing_B = force_BP.isnan().any(-1)
        if withheld_B is not None:
            missing_B = missing_B | withheld_B
        known_BP = torch.where(missing_B[:, None], 0.0, force_BP) / self.unit_n
        token_BE = self.layers(known_BP.sign() * torch.log1p(known_BP.abs()))
        return torch.where(missing_B[:, None], self.none_E, token_BE)
