# SPDX-License-Identifier: Apache-2.0
"""Towers block by block beside timm and the tests' own reference; pictures beside torch's and TensorFlow's resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from openvla_reference import DEPTH, DINO, SIDE, SIGLIP, WIDTHS, import_timm, reference_tower, tower_state
from safetensors.torch import save_file

from vla_ros.core.errors import ConfigError
from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.pixels import Resize, crop_matrix, pillow_matrix
from vla_ros.importers.towers import Tower, kind_of, shape_of, tower_sources

NAMES = {"featurizer": DINO, "fused_featurizer": SIGLIP}
# Float32 sums of some hundred products of size one, in another order, through three blocks.
TOLERANCE = 2e-4


def pixels() -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def states():
    generator = torch.Generator().manual_seed(1)
    return {name: tower_state(name, generator) for name in WIDTHS}


def filled(module: torch.nn.Module, sources) -> torch.nn.Module:
    """The module with its weights, on the CPU."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(sources[f"tower.{name}"]())
    return module.eval()


@pytest.fixture(scope="module")
def towers(states, tmp_path_factory):
    made = {}
    for name, state in states.items():
        folder = tmp_path_factory.mktemp(name)
        save_file({f"{name}.{key}": value for key, value in state.items()}, folder / "model.safetensors")
        checkpoint = Checkpoint(folder)
        shape = shape_of(checkpoint, name, kind_of(NAMES[name]))
        made[name] = filled(Tower(shape, torch.float32), tower_sources(checkpoint, name, shape, "tower"))
    return made


@pytest.mark.parametrize("name", list(WIDTHS))
def test_every_block_is_the_references(states, towers, name):
    outputs = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in towers[name].blocks]
    with torch.no_grad():
        patches = towers[name](pixels())
        wanted = reference_tower(states[name], WIDTHS[name][1], pixels(), name == "featurizer")
    for hook in hooks:
        hook.remove()
    assert len(outputs) == DEPTH - 1, "what lies behind the second-to-last block is not built"
    for found, expected in zip(outputs, wanted):
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    prefix = 5 if name == "featurizer" else 0
    torch.testing.assert_close(patches, wanted[-2][:, prefix:], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", list(WIDTHS))
def test_the_reference_is_timms(states, towers, name):
    try:
        timm = import_timm()
    except ImportError:
        pytest.skip("timm is not installed")
    width, heads, mlp = WIDTHS[name]
    model = timm.create_model(
        NAMES[name], pretrained=False, num_classes=0, img_size=SIDE, embed_dim=width, depth=DEPTH, num_heads=heads
    ).eval()
    state = {key.replace("scale_factor", "gamma"): value for key, value in states[name].items() if not key.startswith("attn_pool")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(key.startswith(("attn_pool", "fc_norm", "head")) for key in missing)
    blocks = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: blocks.append(output))
    with torch.no_grad():
        published = model.get_intermediate_layers(pixels(), n={DEPTH - 2})[0]
        found = towers[name](pixels())
        wanted = reference_tower(states[name], heads, pixels(), name == "featurizer")
    for ours, theirs in zip(wanted, blocks):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(found, published, atol=TOLERANCE, rtol=TOLERANCE)


def damaged(states, tmp_path, **changes) -> Checkpoint:
    state = {f"featurizer.{key}": value for key, value in states["featurizer"].items()} | changes
    save_file({key: value.contiguous() for key, value in state.items() if value is not None}, tmp_path / "model.safetensors")
    return Checkpoint(tmp_path)


def test_a_tower_of_another_kind_is_refused(states, tmp_path):
    with pytest.raises(ConfigError, match="class token and no registers"):
        shape_of(damaged(states, tmp_path, **{"featurizer.reg_token": None}), "featurizer", kind_of(DINO))
    with pytest.raises(ConfigError, match="no tower of the kind"):
        shape_of(damaged(states, tmp_path, **{"featurizer.pos_embed": torch.zeros(1, 5, 128)}), "featurizer", kind_of(DINO))
    with pytest.raises(ConfigError, match="no tower of the kind"):
        shape_of(damaged(states, tmp_path), "featurizer", kind_of(SIGLIP))
    with pytest.raises(ConfigError, match="vit_large_patch14_reg4_dinov2"):
        kind_of("vit_huge_patch14_clip_224")


# ---- pictures ----


def resized(module: Resize, image: np.ndarray) -> np.ndarray:
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, matrix in module.matrices.items():
            getattr(module, name).copy_(matrix)
        return module(torch.from_numpy(image)[None].float())[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("height, width", [(48, 64), (30, 90), (20, 17), (28, 60)])
def test_pictures_are_resized_as_pillow_does(height, width):
    """torch's antialiased bicubic is Pillow's filter without 8 bits between the passes: one level apart, where nothing overshoots them."""
    image = np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (SIDE, SIDE), mode="bicubic", antialias=True
    )
    found = resized(Resize(height, width, SIDE), image)
    assert np.abs(found - wanted.clamp(0, 255)[0].permute(1, 2, 0).numpy()).max() <= 1.5
    assert (found == found.round()).all() and found.min() >= 0 and found.max() <= 255


def test_pillow_agrees_exactly_where_it_is_installed():
    image_module = pytest.importorskip("PIL.Image")
    for height, width in [(48, 64), (30, 90), (20, 17)]:
        image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = np.asarray(image_module.fromarray(image).resize((SIDE, SIDE), image_module.Resampling.BICUBIC))
        found = resized(Resize(height, width, SIDE), image)
        assert (found != wanted).mean() < 0.01 and np.abs(found - wanted).max() <= 1  # Pillow's weights are whole numbers of 2^-22


def test_a_picture_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resized(Resize(SIDE, SIDE, SIDE), image), image)


def test_resizing_keeps_one_colour_and_is_symmetric():
    for matrix in (pillow_matrix(50, 28), pillow_matrix(20, 28), crop_matrix(50, 28, 0.9**0.5)):
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_a_crop_keeps_the_middle():
    """crop_and_resize: the corners of the crop are the corners' centres of the result, linear between them."""
    size, share = 101, 0.9**0.5
    ramp = np.arange(size, dtype=np.float64)
    found = crop_matrix(size, 51, share) @ ramp
    np.testing.assert_allclose(found, np.linspace(50 - 50 * share, 50 + 50 * share, 51), atol=1e-9)
    image = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[:, None, None], (100, 100, 3)).copy()
    cropped = resized(Resize(100, 100, SIDE, crop_area=0.9), image)
    assert cropped[0].mean() > 0 and cropped[-1].mean() < image[-1].mean() and (np.diff(cropped[:, 0, 0]) >= 0).all()
