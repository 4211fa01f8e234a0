# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import CAMERAS
from vla_ros.model.vit import Vit, VitConfig
from vla_ros.train.checkpoint import load_checkpoint
from vla_ros.train.config import read_values
from vla_ros.train.data import Dataset
from vla_ros.train.image_config import MODELS, ImageTrainConfig, config_of, load_vit, restore_image_tokenizer
from vla_ros.train.image_measure import TokenizerMeasure
from vla_ros.train.image_tokens import ImageTrainer, draw_pictures, main

TINY = {
    "tokenizer": {"channels": 8, "codes": 16, "code_width": 4, "residual_blocks": 1},
    "vit": {"width": 24, "depth": 1, "heads": 2},
    "mae": {"width": 16, "depth": 1, "heads": 2},
    "optim": {"warmup_steps": 2, "weight_decay": 0},
    "run": {"max_steps": 4, "frames_per_batch": 3, "val_fraction": 0.3, "val_frames": 4, "validate_steps": 2, "log_steps": 1, "threads": 1},
}


def settings(model: str, **changes) -> dict:
    values = {name: dict(section) for name, section in TINY.items()}
    values["run"].update({"model": model, **changes})
    return values


def make(values: dict, folder, out, resume=None) -> ImageTrainer:
    config = ImageTrainConfig.from_dict(values)
    return ImageTrainer(config, Dataset([folder], val_fraction=config.run.val_fraction), out, resume)


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", MODELS)
def test_resume_continues_bit_exactly(model, dataset_folder, tmp_path):
    make(settings(model), dataset_folder, tmp_path / "whole").run()
    part = make(settings(model), dataset_folder, tmp_path / "part")
    update = part.update

    def stop_after_three(images):
        parts = update(images)
        part.stop_requested = part.step == 3
        return parts

    part.update = stop_after_three
    part.run()
    rest = make(settings(model), dataset_folder, tmp_path / "part", load_checkpoint(tmp_path / "part" / "last.pt"))
    assert rest.step == 3
    rest.run()
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "part"))
    assert a["image_model"].keys() == b["image_model"].keys()
    assert all(torch.equal(tensor, b["image_model"][name]) for name, tensor in a["image_model"].items())
    assert a["metrics"] == b["metrics"]
    moments_a, moments_b = a["optimizer"]["state"], b["optimizer"]["state"]
    assert all(torch.equal(moments_a[i][k], moments_b[i][k]) for i in moments_a for k in moments_a[i])


@pytest.mark.parametrize("model", MODELS)
def test_overfits_one_batch(model, dataset_folder, tmp_path):
    values = settings(model, max_steps=10_000)
    values["optim"] = {"warmup_steps": 5, "learning_rate": 5e-3, "weight_decay": 0}
    values["tokenizer"].update({"channels": 24, "codes": 32, "code_width": 8, "kl_weight": 0.0})
    trainer = make(values, dataset_folder, tmp_path / "out")
    images = draw_pictures(trainer.dataset, np.random.default_rng(0), 2)
    losses = [trainer.update(images)["loss"] for _ in range(150)]
    assert losses[-1] < 0.35 * losses[0], losses[::30]


@pytest.mark.parametrize("model", MODELS)
def test_the_command_leaves_what_it_says(model, dataset_folder, tmp_path):
    out = tmp_path / "out"
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(TINY))
    assert main(["--config", str(config), "--model", model, "--data", str(dataset_folder), "--out", str(out), "--json", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["finished"] and result["step"] == 4 and result["model"] == model
    validations = [line for line in lines(out) if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [2, 4, 4]
    assert all(math.isfinite(line["psnr_db"]) for line in validations)
    if model != "mae":
        assert 1.0 <= result["perplexity"] <= 16.0 and 1 / 16 <= result["codes_used"] <= 1.0
    best = load_checkpoint(out / "best.pt")
    assert best["metrics"]["error"] == min(line["error"] for line in validations)
    picture = cv2.imread(str(out / "pictures.png"))
    assert picture.shape[0] == 2 * (128 + 64) and picture.shape[1] >= 128
    with pytest.raises(ConfigError, match="--resume"):
        main(["--config", str(config), "--model", model, "--data", str(dataset_folder), "--out", str(out)])


def test_the_dvaes_temperature_falls(dataset_folder, tmp_path):
    make(settings("dvae", max_steps=8), dataset_folder, tmp_path / "out").run()
    falling = [line["temperature"] for line in lines(tmp_path / "out") if line["kind"] == "training"]
    assert falling[0] == 1.0 and falling[-1] == 0.0625
    assert all(a >= b for a, b in zip(falling, falling[1:]))


def test_a_tokenizer_comes_back_from_its_checkpoint(dataset_folder, tmp_path):
    trainer = make(settings("vqvae"), dataset_folder, tmp_path / "out")
    trainer.run()
    restored = restore_image_tokenizer(tmp_path / "out" / "last.pt")
    images = draw_pictures(trainer.dataset, np.random.default_rng(1), 2)
    assert torch.equal(restored.encode(images["front"]), trainer.model.eval().encode(images["front"]))
    assert not restored.training


def test_a_pre_trained_encoder_is_taken_over_by_every_frame(dataset_folder, tmp_path):
    trainer = make(settings("mae"), dataset_folder, tmp_path / "out")
    trainer.run()
    vit = Vit(VitConfig(frames=3, width=24, depth=1, heads=2))
    load_vit(tmp_path / "out" / "last.pt", vit)
    trained = trainer.model.vit
    assert torch.equal(vit.frame_RE, trained.frame_RE.expand(3, -1))
    token = torch.randn(2, 5, 24)
    assert torch.equal(vit.encode(token), trained.encode(token))


def test_checkpoints_of_something_else_are_refused(dataset_folder, tmp_path):
    make(settings("mae"), dataset_folder, tmp_path / "mae").run()
    make(settings("vqvae"), dataset_folder, tmp_path / "vqvae").run()
    with pytest.raises(ConfigError, match="holds a masked autoencoder"):
        restore_image_tokenizer(tmp_path / "mae" / "last.pt")
    with pytest.raises(ConfigError, match="holds a vqvae"):
        load_vit(tmp_path / "vqvae" / "last.pt", Vit(VitConfig(width=24, depth=1, heads=2)))
    with pytest.raises(ConfigError, match="another shape"):
        load_vit(tmp_path / "mae" / "last.pt", Vit(VitConfig(width=48, depth=1, heads=2)))
    with pytest.raises(ConfigError, match="another model"):
        make(settings("dvae"), dataset_folder, tmp_path / "x", load_checkpoint(tmp_path / "vqvae" / "last.pt"))
    with pytest.raises(ConfigError, match="train-image-tokens"):
        config_of({"step": 3})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run": {"model": "vae", "max_steps": 1}}, "vqvae, dvae, mae"),
        ({"run": {"model": "mae"}}, "budget"),
        ({"run": {"max_steps": 1}, "tokenizer": {"kind": "dvae"}}, "remove tokenizer.kind"),
        ({"run": {"max_steps": 1}, "vit": {"frames": 2}}, "remove vit.frames"),
        ({"run": {"max_steps": 1}, "net": {}}, "unknown section net"),
        ({"run": {"max_steps": 1, "wat": 1}}, "unknown setting run.wat"),
    ],
)
def test_wrong_settings_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        ImageTrainConfig.from_dict(values)


def test_the_shipped_settings_are_valid_and_survive_their_dictionary(pytestconfig):
    path = pytestconfig.rootpath / "config" / "train" / "image_tokens.yaml"
    config = ImageTrainConfig.from_dict(read_values(path))
    assert ImageTrainConfig.from_dict(config.to_dict()) == config
    assert config.run.model == config.tokenizer.kind == "vqvae"


def test_psnr_is_the_mean_over_pictures_then_cameras():
    class Off(torch.nn.Module):
        """Paints every picture off by a constant in -1..1 that depends on its size."""

        def forward(self, image):
            from vla_ros.model.image_tokens import TokenizerOutput, to_range

            off = 0.2 if image.shape[1] == 128 else 0.02
            zero = torch.zeros(())
            return TokenizerOutput(painted_BHWC=to_range(image) + off, loss=zero, reconstruction=zero, regulariser=zero, ids_Bhw=torch.ones(2, 1, 1, dtype=torch.int64))

    measure = TokenizerMeasure(4)
    measure.add(Off(), {camera.name: torch.zeros(2, *camera.shape, dtype=torch.uint8) for camera in CAMERAS})
    result = measure.result()
    assert result["psnr_front_db"] == pytest.approx(20.0, abs=1e-4)
    assert result["psnr_wrist_db"] == pytest.approx(40.0, abs=1e-4)
    assert result["psnr_db"] == pytest.approx(30.0, abs=1e-4)
    assert result["perplexity"] == 1.0 and result["codes_used"] == 0.25
