# SPDX-License-Identifier: Apache-2.0
"""VQ-VAE and dVAE against brute force, a numpy moving average, the Gumbel-max theorem and OpenCV's PSNR."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model.image_tokens import (
    DVae, ImageTokenIds, ImageTokenizerConfig, annealed_temperature, divergence_from_even, make_tokenizer, psnr, to_pixels, to_range,
)
from vla_ros.model.vector_quantizer import VectorQuantizer, code_counts, nearest_code, perplexity, straight_through


def config(kind: str = "vqvae", **changes) -> ImageTokenizerConfig:
    return ImageTokenizerConfig(**{"kind": kind, "stride": 8, "channels": 12, "residual_blocks": 1, "codes": 16, "code_width": 6, **changes})


def pictures(batch: int = 4, height: int = 32, width: int = 24) -> torch.Tensor:
    """Two coloured halves in each picture."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (batch, 2, 1, 1, 3), dtype=torch.uint8, generator=generator)
    return torch.cat([colours[:, 0].expand(-1, height // 2, width, 3), colours[:, 1].expand(-1, height // 2, width, 3)], dim=1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(2, 12), st.integers(1, 5), st.floats(0.0, 1e4))
def test_lookup_is_the_nearest_code_as_defined(seed, cells, codes, width, offset):
    """Far from the origin as well, where the expanded square loses the difference."""
    rng = np.random.default_rng(seed)
    z, codebook = ((rng.normal(size=(n, width)) + offset).astype(np.float32) for n in (cells, codes))
    chosen = nearest_code(torch.from_numpy(z), torch.from_numpy(codebook)).numpy()
    distance = np.linalg.norm(z[:, None].astype(np.float64) - codebook[None].astype(np.float64), axis=-1)
    # the difference of two float32 is exact to one rounding of it; the norm adds about `width` more
    slack = 1e-6 * (1 + width) * distance.min(1)
    assert (distance[np.arange(cells), chosen] <= distance.min(1) + slack).all()


def test_equal_codes_give_the_first():
    codebook = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert nearest_code(torch.tensor([[0.0, 0.0], [2.5, 0.0]]), codebook).tolist() == [1, 0]


def test_the_quantised_cell_is_the_code_bit_for_bit_and_its_gradient_goes_straight_through():
    quantizer = VectorQuantizer(8, 4, 0.99, 0.02).eval()
    z = torch.randn(20, 4, requires_grad=True)
    quantised, ids, commitment = quantizer(z)
    assert torch.equal(quantised, quantizer.codebook_KC[ids])
    weight = torch.randn(20, 4)
    (quantised * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    torch.testing.assert_close(commitment, (z - quantizer.codebook_KC[ids]).square().mean())


def test_the_commitment_loss_pulls_the_cell_to_its_code():
    quantizer = VectorQuantizer(8, 4, 0.99, 0.02).eval()
    z = torch.randn(5, 4, requires_grad=True)
    _, ids, commitment = quantizer(z)
    commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z.detach() - quantizer.codebook_KC[ids]) / z.numel())
    assert not list(quantizer.parameters())


def test_the_codebook_is_the_moving_average_of_its_cells():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, 2, 0.9, 1e-3).train()
    quantizer(torch.randn(200, 2))
    codebook, share, total = (tensor.clone().numpy() for tensor in (quantizer.codebook_KC, quantizer.share_K, quantizer.sum_KC))
    for _ in range(3):
        z = torch.randn(50, 2)
        chosen = np.linalg.norm(z.numpy()[:, None] - codebook[None], axis=-1).argmin(1)
        for k in range(4):
            share[k] = 0.9 * share[k] + 0.1 * (chosen == k).mean()
            total[k] = 0.9 * total[k] + 0.1 * z.numpy()[chosen == k].sum(0) / 50
            codebook[k] = total[k] / share[k]
        assert quantizer(z)[1].tolist() == chosen.tolist()
        np.testing.assert_allclose(quantizer.codebook_KC.numpy(), codebook, rtol=1e-5, atol=1e-6)


def test_an_evaluation_moves_nothing():
    quantizer = VectorQuantizer(4, 2, 0.9, 0.02).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(50, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def test_dead_codes_start_anew_at_cells_of_the_batch():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 2, 0.99, 0.02).train()
    quantizer(torch.randn(64, 2))
    quantizer.codebook_KC[3:] = 1e6
    quantizer.share_K[3:] = 0.0
    z = torch.randn(64, 2)
    _, ids, _ = quantizer(z)
    assert len(ids.unique()) > 3
    assert quantizer.codebook_KC.abs().max() < 10
    assert quantizer.share_K.min() > 0


@pytest.mark.parametrize(("dead_below", "used"), [(0.02, 16), (1e-12, 1)])
def test_revival_keeps_the_codebook_in_use(dead_below, used):
    """Fifteen of sixteen codes start far from all cells. Hardly any revival (the second case) leaves them unused."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 2, 0.9, dead_below).train()
    quantizer.codebook_KC.copy_(torch.linspace(0.0, 150.0, 16)[:, None].expand(-1, 2))
    quantizer.share_K.fill_(1 / 16)
    quantizer.sum_KC.copy_(quantizer.codebook_KC / 16)
    for _ in range(100):
        _, ids, _ = quantizer(torch.randn(256, 2))
    count = code_counts(ids, 16)
    assert int((count > 0).sum()) == used
    assert perplexity(count) > 0.5 * used


def test_perplexity_of_known_uses():
    assert perplexity(torch.full((8,), 3.0)) == pytest.approx(8.0)
    assert perplexity(torch.tensor([5.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert perplexity(torch.tensor([1.0, 3.0])) == pytest.approx(math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))))
    assert code_counts(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def test_psnr_equals_opencvs():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8) for _ in range(2))
    ours = psnr(to_range(torch.from_numpy(a)), to_range(torch.from_numpy(b)))
    assert ours.tolist() == pytest.approx([cv2.PSNR(x, y) for x, y in zip(a, b)], rel=1e-5)


def test_pixels_survive_the_range():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(to_pixels(to_range(every)), every)


@pytest.mark.parametrize("kind", ["vqvae", "dvae"])
@pytest.mark.parametrize("stride", [4, 16])
def test_shapes_gradients_and_ids(kind, stride):
    model = make_tokenizer(config(kind, stride=stride, kl_weight=0.1)).train()
    image = pictures(2, 32, 48)
    output = model(image)
    assert output.painted_BHWC.shape == (2, 32, 48, 3)
    assert output.ids_Bhw.shape == (2, 32 // stride, 48 // stride)
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without
    model.eval()
    ids = model.encode(image)
    assert torch.equal(ids, model(image).ids_Bhw) and ids.max() < 16
    torch.testing.assert_close(model.decode(ids), model(image).painted_BHWC)


@pytest.mark.parametrize("kind", ["vqvae", "dvae"])
def test_overfits_one_batch(kind):
    torch.manual_seed(0)
    model, image = make_tokenizer(config(kind, kl_weight=0.0, ema_decay=0.9)).train(), pictures()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.no_grad():
        first = psnr(model.eval()(image).painted_BHWC, to_range(image)).mean()
    model.train()
    for step in range(300):
        output = model(image, annealed_temperature(step / 200, 1.0, 1 / 16))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    with torch.no_grad():
        last = psnr(model.eval()(image).painted_BHWC, to_range(image)).mean()
    assert last > first + 12, (first, last)


@pytest.fixture
def plain_dvae() -> DVae:
    """Its codes are the unit vectors, so that a draw is the mixture itself."""
    torch.manual_seed(0)
    model = DVae(config("dvae", codes=4, code_width=4))
    with torch.no_grad():
        model.codebook_KC.copy_(torch.eye(4))
    return model


def test_draws_follow_the_softmax(plain_dvae):
    """Gumbel-max: the code that a draw favours has exactly the probability that the softmax gives it, at any temperature."""
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    draws = plain_dvae.draw(logits.expand(1, 1, 20_000, 4), 0.3)
    share = code_counts(draws.argmax(-1), 4) / 20_000
    # deviation of a share is at most sqrt(0.25 / 20000) = 0.0035; five of them
    assert (share - logits.softmax(-1)).abs().max() < 0.018


def test_a_cold_draw_is_one_code_and_a_hot_one_a_mixture(plain_dvae):
    logits = torch.randn(1, 1, 500, 4)
    cold, hot = (plain_dvae.draw(logits, tau).amax(-1).mean() for tau in (0.01, 100.0))
    assert cold > 0.98 and hot < 0.3


def test_divergence_from_even_use():
    assert float(divergence_from_even(torch.zeros(2, 1, 1, 8))) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence_from_even(torch.tensor([100.0, 0, 0, 0]).view(1, 1, 1, 4))) == pytest.approx(math.log(4))


def test_the_temperature_falls_from_start_to_end():
    values = [annealed_temperature(p / 10, 1.0, 1 / 16) for p in range(-1, 13)]
    assert values[0] == values[1] == 1.0
    assert values[11] == values[-1] == 1 / 16
    assert all(a >= b for a, b in zip(values, values[1:]))


def test_straight_through_keeps_the_value():
    z, q = torch.randn(100) * 1e3, torch.randn(100) * 1e-3
    assert torch.equal(straight_through(z, q), q)


def test_a_policys_tokenizer_never_trains():
    cameras = (CameraSpec(name="front", height=32, width=32), CameraSpec(name="wrist", height=16, width=16))
    ids = ImageTokenIds(make_tokenizer(config()), cameras)
    torch.nn.Sequential(ids).train()
    images = {camera.name: torch.randint(0, 256, (3, *camera.shape), dtype=torch.uint8) for camera in cameras}
    before = ids.tokenizer.quantizer.codebook_KC.clone()
    chosen = ids(images)
    assert chosen.shape == (3, ids.num_tokens) == (3, 16 + 4)
    assert torch.equal(chosen[:, 16:], ids.tokenizer.encode(images["wrist"]).flatten(1))
    assert torch.equal(before, ids.tokenizer.quantizer.codebook_KC)
    assert not any(parameter.requires_grad for parameter in ids.parameters())


def test_config_survives_its_dictionary_and_names_what_is_wrong():
    assert ImageTokenizerConfig.from_dict(config().to_dict()) == config()
    with pytest.raises(ConfigError, match="unknown image tokenizer setting code.*codes"):
        ImageTokenizerConfig.from_dict({"code": 3})
    for changes, words in (({"kind": "vae"}, "vqvae, dvae"), ({"stride": 12}, "power of two"), ({"codes": 1}, "at least 2"), ({"dead_below": 0.0}, "dead_below")):
        with pytest.raises(ConfigError, match=words):
            config(**changes)
    with pytest.raises(ConfigError, match="multiples of stride 8"):
        make_tokenizer(config())(pictures(1, 20, 24))
