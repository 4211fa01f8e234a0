# SPDX-License-Identifier: Apache-2.0
"""The vision transformer and its attention against torch's own modules, a convolution and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model.attention import MASKED, Attention, SelfBlock, scaled_dot_product_attention
from vla_ros.model.vit import Vit, VitConfig, VitStem, patchify, unpatchify

FRONT, WRIST = CameraSpec(name="front", height=32, width=48), CameraSpec(name="wrist", height=16, width=16)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums of some hundred terms


def config(**changes) -> VitConfig:
    return VitConfig(**{"cameras": (FRONT, WRIST), "patch": 8, "width": 24, "depth": 2, "heads": 3, **changes})


def pictures(frames: int | None = None, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = (batch,) if frames is None else (batch, frames)
    return {c.name: torch.randint(0, 256, (*lead, *c.shape), dtype=torch.uint8, generator=generator) for c in (FRONT, WRIST)}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """All parameters of size 0.3, so that no branch is near zero; double precision."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def test_attention_equals_torchs_kernel_and_numpy():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4).double() for n in (5, 7, 7))
    hidden = torch.rand(2, 1, 5, 7) < 0.4
    hidden[..., 0] = False
    ours = scaled_dot_product_attention(q, k, v, hidden * MASKED)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden), **CLOSE)
    score = np.einsum("bgqf,bgsf->bgqs", q.numpy(), k.numpy()) / np.sqrt(4)
    weight = np.where(hidden.numpy(), 0.0, np.exp(score))
    weight /= weight.sum(-1, keepdims=True)
    np.testing.assert_allclose(ours.numpy(), np.einsum("bgqs,bgsf->bgqf", weight, v.numpy()), rtol=1e-10)


def test_multi_head_attention_equals_torchs_module():
    ours = randomised(Attention(24, 3))
    theirs = torch.nn.MultiheadAttention(24, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.weight.copy_(ours.project.weight)
        theirs.out_proj.bias.copy_(ours.project.bias)
        query, source = torch.randn(2, 5, 24).double(), torch.randn(2, 7, 24).double()
        torch.testing.assert_close(ours(query, source), theirs(query, source, source)[0], **CLOSE)


def test_block_equals_torchs_pre_norm_layer():
    ours = randomised(SelfBlock(24, 3, 4, 2))
    theirs = torch.nn.TransformerEncoderLayer(24, 3, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).double()
    with torch.no_grad():
        attention = ours.attention
        theirs.self_attn.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
        for target, source in (
            (theirs.self_attn.out_proj, attention.project), (theirs.linear1, ours.feed_forward.expand),
            (theirs.linear2, ours.feed_forward.contract), (theirs.norm1, ours.norm_attention), (theirs.norm2, ours.norm_mlp),
        ):
            target.load_state_dict(source.state_dict())
        x = torch.randn(2, 6, 24).double()
        torch.testing.assert_close(ours(x), theirs.train()(x), **CLOSE)


def test_patch_embedding_equals_a_strided_convolution():
    vit = randomised(Vit(config()))
    image = pictures()["front"].double() / 127.5 - 1.0
    kernel = vit.patch_embedding.weight.reshape(24, 8, 8, 3).permute(0, 3, 1, 2)
    expected = F.conv2d(image.permute(0, 3, 1, 2), kernel, vit.patch_embedding.bias, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.patch_embedding(vit.patches(pictures())[:, :24]), expected, **CLOSE)


def test_patches_can_be_put_together_again():
    image = pictures()["front"]
    assert torch.equal(unpatchify(patchify(image, 8), 8, 32, 48), image)


@pytest.mark.parametrize("frames", [1, 3])
def test_shapes_and_gradients(frames):
    vit = Vit(config(frames=frames))
    class_token, patches = vit(pictures(frames))
    assert class_token.shape == (2, 24)
    assert patches.shape == (2, frames * (4 * 6 + 2 * 2), 24)
    (class_token.square().sum() + (patches**3).sum()).backward()
    without = [name for name, parameter in vit.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


def test_the_newest_frame_of_the_first_camera_leads():
    vit = Vit(config(frames=2))
    images = pictures(2)
    pixels = ((vit.patches(images) + 1.0) * 127.5).round().to(torch.uint8)
    assert torch.equal(pixels[:, :24], patchify(images["front"][:, 0], 8))
    assert torch.equal(pixels[:, 24:28], patchify(images["wrist"][:, 0], 8))
    assert torch.equal(pixels[:, 28:52], patchify(images["front"][:, 1], 8))


def test_the_order_of_frames_and_the_place_of_a_patch_matter():
    vit = randomised(Vit(config(frames=2)))
    images = pictures(2)
    swapped = {name: image.flip(1) for name, image in images.items()}
    moved = {**images, "front": images["front"].roll(8, dims=3)}
    with torch.no_grad():
        before = vit(images)[0]
        assert not torch.allclose(before, vit(swapped)[0], atol=1e-3)
        assert not torch.allclose(before, vit(moved)[0], atol=1e-3)


def test_without_places_the_class_token_cannot_tell_order():
    """Attention alone is blind to order: what the positions are for, and that nothing else leaks it."""
    vit = randomised(Vit(config()))
    with torch.no_grad():
        vit.position_VE.zero_()
        vit.frame_RE.zero_()
        token = vit.embed(vit.patches(pictures()))
        shuffled = token[:, torch.randperm(token.shape[1])]
        torch.testing.assert_close(vit.encode(token)[:, 0], vit.encode(shuffled)[:, 0], **CLOSE)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"front": pictures()["front"]}, "no picture of camera wrist"),
        ({**pictures(), "wrist": pictures()["wrist"][:, :8]}, "camera wrist: expected"),
        (pictures(2), "camera front: expected"),
    ],
)
def test_wrong_pictures_are_refused(images, words):
    with pytest.raises(ConfigError, match=words):
        Vit(config())(images)


@pytest.mark.parametrize(("changes", "words"), [({"patch": 10}, "multiples of 10"), ({"heads": 5}, "heads"), ({"frames": 0}, "frames"), ({"cameras": ()}, "camera")])
def test_a_wrong_shape_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_overfits_one_batch():
    torch.manual_seed(0)
    vit = Vit(config())
    read = torch.nn.Linear(24, 4)
    images, labels = pictures(batch=8), torch.arange(8) % 4
    optimizer = torch.optim.AdamW([*vit.parameters(), *read.parameters()], lr=3e-3)
    losses = []
    for _ in range(80):
        loss = F.cross_entropy(read(vit(images)[0]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.0 and losses[-1] < 0.02, losses[::20]


@pytest.mark.parametrize("class_token", [False, True])
def test_as_the_policys_vision_it_keeps_the_patches_in_front(class_token):
    stem = VitStem(config(), 40, class_token)
    tokens = stem(pictures())
    assert tokens.shape == (2, stem.num_tokens, 40)
    assert stem.num_tokens == 28 + class_token
    torch.testing.assert_close(tokens[:, :28], stem.project(stem.vit(pictures())[1]))
