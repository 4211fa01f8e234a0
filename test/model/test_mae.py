# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model.mae import MaeConfig, MaskedAutoencoder, draw_hidden
from vla_ros.model.vit import VitConfig

CAMERAS = (CameraSpec(name="front", height=32, width=32), CameraSpec(name="wrist", height=16, width=16))
VIT = VitConfig(cameras=CAMERAS, patch=8, width=24, depth=2, heads=3)


def make(**changes) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(VIT, MaeConfig(**{"width": 16, "depth": 1, "heads": 2, **changes}))


def pictures(batch: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {c.name: torch.randint(0, 256, (batch, *c.shape), dtype=torch.uint8, generator=generator) for c in CAMERAS}


def test_three_quarters_are_hidden_and_each_choice_is_as_likely():
    hidden = draw_hidden(4000, 20, 15)
    assert (hidden.sum(1) == 15).all()
    # a patch's count is binomial with deviation sqrt(4000 * 0.75 * 0.25) = 27; five of them
    assert (hidden.sum(0) - 3000).abs().max() < 140


@pytest.mark.parametrize("target_kind", ["pixels", "normed"])
def test_the_loss_counts_hidden_patches_only(target_kind):
    model = make(target=target_kind)
    images = pictures()
    hidden = draw_hidden(4, 20, 15)
    output = model(images, hidden)
    target = model.vit.patches(images)
    if target_kind == "normed":
        mean, std = target.mean(-1, keepdim=True), target.std(-1, keepdim=True)
        error = ((output.painted_BVX - target) / std).square().mean(-1)
        assert torch.allclose((target - mean).mean(-1), torch.zeros(()), atol=1e-5)
    else:
        error = (output.painted_BVX - target).square().mean(-1)
    torch.testing.assert_close(output.loss, error[hidden].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.painted_BVX[~hidden], target[~hidden])


def test_hidden_pixels_do_not_reach_the_prediction():
    model = make()
    hidden = draw_hidden(4, 20, 15)
    patches = model.vit.patches(pictures())
    other = torch.where(hidden[..., None], torch.rand_like(patches), patches)
    with torch.no_grad():
        assert torch.equal(model._predict(patches, hidden), model._predict(other, hidden))
        seen = torch.where(hidden[..., None], patches, torch.rand_like(patches))
        assert not torch.allclose(model._predict(patches, hidden), model._predict(seen, hidden))


def test_every_visible_token_returns_to_its_own_place():
    """With a decoder of no blocks that only passes on, each visible patch's own code must come out at its index."""
    model = make(depth=0).double()
    hidden = draw_hidden(4, 20, 15)
    patches = model.vit.patches(pictures())
    with torch.no_grad():
        model.position_VD.zero_()
        painted = model._predict(patches, hidden)
        for sample in range(4):
            visible = (~hidden[sample]).nonzero()[:, 0]
            tokens = model.vit.embed(patches[sample : sample + 1])[:, visible]
            expected = model.paint(model.norm(model.narrow(model.vit.encode(tokens)[0, 1:])))
            torch.testing.assert_close(painted[sample, visible], expected, rtol=1e-9, atol=1e-9)


def test_every_parameter_gets_a_gradient():
    model = make()
    model(pictures()).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


def test_overfits_one_batch():
    model, images = make(width=32, heads=4), pictures(2)
    hidden = draw_hidden(2, 20, 15)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        loss = model(images, hidden).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0], losses[::20]


@pytest.mark.parametrize(("changes", "words"), [({"mask_ratio": 1.0}, "between 0 and 1"), ({"mask_ratio": 0.01}, "hides 0"), ({"width": 15}, "multiple of heads"), ({"target": "edges"}, "pixels, normed")])
def test_what_cannot_be_masked_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)
