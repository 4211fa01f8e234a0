# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("onnx")

from vla_ros import ablate  # noqa: E402
from vla_ros.core.errors import ConfigError  # noqa: E402
from vla_ros.core.paths import share_dir  # noqa: E402
from vla_ros.train.synthetic import write_dataset  # noqa: E402
from vla_ros.train.variants import read_study  # noqa: E402

STUDY = {
    "study": {"episodes": 0},
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8]},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "run": {"max_steps": 3, "val_frames": 4, "threads": 1, "vision_fraction": 0.0},
    "images": {"small": {"run": {"model": "vqvae", "max_steps": 1, "val_frames": 4, "val_fraction": 0.3, "threads": 1}, "tokenizer": {"channels": 8, "codes": 16, "code_width": 4}}},
    "variants": {
        "plain": {"idea": "as it is"},
        "tokens": {"idea": "image tokens", "model": {"stem": "tokens"}, "pretrained": {"image_tokens": "small"}},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two rows, its words, and a Markdown file that it filled."""
    folder = tmp_path_factory.mktemp("ablate")
    data = write_dataset(folder / "data")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    docs = folder / "table.md"
    docs.write_text(f"before\n{ablate.BEGIN}\nold\n{ablate.END}\nafter\n")
    words = [str(folder / "study.yaml"), "--data", str(data), "--out", str(folder / "out"), "--docs", str(docs)]
    assert ablate.main(words) == 0
    return folder, words, docs


def test_each_variant_has_a_row_with_its_cost(made):
    folder, _, docs = made
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    rows = {line.split(" | ")[0].strip("| "): [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")}
    assert set(rows) == {"piece", "as it is", "image tokens"}
    assert all(len(row) == len(ablate.COLUMNS) for row in rows.values())
    results = {row["variant"]: row for row in json.loads((folder / "out" / "ablations.json").read_text())["rows"]}
    assert results["tokens"]["parameters"] != results["plain"]["parameters"] and results["plain"]["operations"] > 1e6
    assert all(row["steps"] == 3 and 0 <= row["metrics"]["token_accuracy"] <= 1 for row in results.values())
    assert f"{results['plain']['metrics']['loss_action']:.3f}" in rows["as it is"]
    assert "vla ablate" in text and "3 steps" in text


def test_rows_that_are_there_are_not_made_again(made, monkeypatch):
    folder, words, _ = made

    def never(*unused):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablate.AblationStudy, "_train", never)
    monkeypatch.setattr(ablate.AblationStudy, "_train_images", never)
    (folder / "out" / "ablations.json").unlink()
    assert ablate.main([*words, "--only", "tokens"]) == 0  # the table still has all rows
    assert len(json.loads((folder / "out" / "ablations.json").read_text())["rows"]) == 2
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert len(before) == 3 and ablate.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before


def test_a_table_goes_on_from_the_rows_of_a_record(made, tmp_path, monkeypatch):
    folder, words, docs = made
    (tmp_path / "table.md").write_text(docs.read_text())
    record = tmp_path / "record.json"
    record.write_text((folder / "out" / "ablations.json").read_text())
    elsewhere = [*words[:3], "--out", str(folder / "out"), "--docs", str(tmp_path / "table.md"), "--json", str(record), "--append"]
    for path in folder.rglob("result.json"):  # of another machine, as it were
        path.rename(path.with_suffix(".away"))
    try:
        monkeypatch.setattr(ablate.AblationStudy, "_train", None)
        monkeypatch.setattr(ablate.AblationStudy, "_train_images", None)
        assert ablate.main(elsewhere) == 0
        assert len(json.loads(record.read_text())["rows"]) == 2
        with pytest.raises(ConfigError, match="row of plain in --json"):
            ablate.main([*elsewhere, "--set", "optim.learning_rate=0.5"])
        with pytest.raises(ConfigError, match="give that file too"):
            ablate.main([*words, "--append"])
        record.write_text("[]")
        with pytest.raises(ConfigError, match="no rows of vla ablate"):
            ablate.main(elsewhere)
    finally:
        for path in folder.rglob("result.away"):
            path.rename(path.with_suffix(".json"))


def test_a_row_of_other_settings_is_not_taken_for_this_one(made):
    _, words, _ = made
    with pytest.raises(ConfigError, match="other settings"):
        ablate.main([*words, "--set", "optim.learning_rate=0.5"])


def test_an_interrupted_row_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate.AblationStudy, "_judge", lambda *unused: {})  # costs seconds, and is tested above
    study_file = tmp_path / "study.yaml"
    study_file.write_text(yaml.safe_dump({**STUDY, "variants": {"plain": {"idea": "as it is"}}}))
    study = read_study(study_file, [])
    data = write_dataset(tmp_path / "data")
    first = ablate.AblationStudy(study, [data], [], tmp_path / "out")
    make_trainer = ablate.Trainer

    class StopsAfterOne(make_trainer):
        def _update(self, batch):
            parts = super()._update(batch)
            first.stop_requested = True
            return parts

    ablate.Trainer = StopsAfterOne
    try:
        assert first.run(study.variants) == []
    finally:
        ablate.Trainer = make_trainer
    assert ablate.load_checkpoint(tmp_path / "out" / "runs" / "plain" / "seed0" / "last.pt")["step"] == 1
    (row,) = ablate.AblationStudy(study, [data], [], tmp_path / "out").run(study.variants)
    assert row["steps"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variants": {"a b": {"idea": "x"}}}, "small letters"),
        ({"variants": {"a": {"idea": "x", "modell": {}}}}, "modell"),
        ({"variants": {"a": {"idea": "x", "loss": {"vison": 1}}}}, "loss.vison"),
        ({"variants": {"a": {}}}, "idea"),
        ({"variants": {"a": {"idea": "x", "pretrained": {"vision_init": "none"}}}}, "none"),
        ({"variants": {"a": {"idea": "x", "run": {"max_minutes": 1}}}}, "fair budget"),
        ({"study": {"episodes": 9999}}, "episodes"),
    ],
)
def test_a_study_that_cannot_be_is_refused(change, words, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **change}))
    with pytest.raises(ConfigError, match=words):
        read_study(path, [])


def test_success_is_pooled_over_seeds_and_figures_are_averaged():
    def run(seed, loss, successes):
        return {"variant": "a", "idea": "an idea", "seed": seed, "parameters": 2_000_000, "operations": 3e8, "metrics": {"loss_action": loss, "token_accuracy": 0.5, "first_mm": 4.0}, "successes": successes, "episodes": 10}

    row = ablate.table([run(0, 1.0, 10), run(1, 2.0, 5)]).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("| ").split("|")] == ["an idea", "2.00", "300", "1.500 ± 0.707", "0.500", "4.0", "–", "75.0% (53.1% to 88.8%)", "20"]


def test_a_variant_that_the_data_cannot_train_costs_only_its_own_row(made, tmp_path, caplog):
    folder, words, _ = made
    variants = {"mute": {"idea": "answers without questions", "model": {"answer_tokens": 5}}, **STUDY["variants"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, "variants": variants}))
    assert ablate.main([str(tmp_path / "study.yaml"), *words[1:-2]]) == 1
    assert "no row of mute" in caplog.text and "--questions" in caplog.text
    assert len(json.loads((folder / "out" / "ablations.json").read_text())["rows"]) == 2


def test_a_page_without_marks_is_refused(made, tmp_path):
    _, words, _ = made
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ConfigError, match="ablations: begin"):
        ablate.main([*words[:-1], str(tmp_path / "page.md")])


def test_the_shipped_study_can_be_read_and_its_page_filled():
    study = read_study(share_dir() / "config" / "train" / "ablations.yaml", [])
    assert len(study.variants) > 12 and study.variants[0].name == "baseline"
    page = share_dir() / "docs" / "ablations.md"
    if page.exists():  # not installed with the package
        assert ablate.BEGIN in page.read_text(encoding="utf-8")
