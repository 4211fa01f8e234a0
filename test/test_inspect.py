# SPDX-License-Identifier: Apache-2.0
"""``vla inspect`` shows a bundle and sees every file that is not the measured one; ``vla doctor`` finds its way around."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from vla_ros import doctor, inspect_bundle
from vla_ros.core.errors import BundleError


@pytest.fixture
def bundle(still_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(still_bundle, tmp_path / "bundle"))


def test_an_intact_bundle_is_shown(bundle, tmp_path, capsys):
    out = tmp_path / "facts.json"
    assert inspect_bundle.main([str(bundle), "--json", str(out)]) == 0
    said, facts = capsys.readouterr().out, json.loads(out.read_text())
    assert "front 128x128x3" in said and "terminate" in said and "parallel" in said
    assert facts["intact"] and facts["manifest"]["robot"] == "tabletop_arm" and len(facts["bundle_sha256"]) == 64


def test_a_changed_file_is_found(bundle, tmp_path):
    with (bundle / "policy.onnx").open("ab") as stream:
        stream.write(b"x")
    out = tmp_path / "facts.json"
    assert inspect_bundle.main([str(bundle), "--json", str(out)]) == 1
    facts = json.loads(out.read_text())
    assert not facts["intact"] and facts["files"]["policy.onnx"]["state"] == "changed" and facts["files"]["tokenizer.json"]["state"] == "ok"


def test_a_missing_file_is_found(bundle, capsys):
    (bundle / "tokenizer.json").unlink()
    assert inspect_bundle.main([str(bundle)]) == 1
    assert "missing" in capsys.readouterr().out


def test_a_broken_manifest_is_refused_with_a_reason(bundle):
    (bundle / "manifest.yaml").write_text("format_version: 99\n")
    with pytest.raises(BundleError, match="99"):
        inspect_bundle.main([str(bundle)])


def test_its_evaluation_is_shown(bundle, capsys):
    (bundle / "evaluation.json").write_text(json.dumps({"success_rate": 0.5, "episodes": 10, "split": "seen", "ci95": [0.2, 0.8]}))
    inspect_bundle.main([str(bundle)])
    assert "50.0%" in capsys.readouterr().out


def test_a_broken_evaluation_does_not_hide_the_bundle(bundle, capsys):
    (bundle / "evaluation.json").write_text("{")
    assert inspect_bundle.main([str(bundle)]) == 0
    assert "cannot be read" in capsys.readouterr().out


def test_whatever_is_wrong_comes_with_a_remedy():
    findings = [*doctor.check_python(), *doctor.check_onnxruntime(), *doctor.check_shared_memory(), *doctor.check_bundles()]
    assert findings and all(finding.remedy for finding in findings if finding.state != doctor.OK)


def test_a_package_that_cannot_be_loaded_is_found(tmp_path, monkeypatch):
    (tmp_path / "built_for_numpy_1.py").write_text("raise ImportError('numpy.core.multiarray failed to import')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    finding = doctor.check_packages(["json", "built_for_numpy_1"])
    assert finding.state == doctor.FAIL and "built_for_numpy_1: numpy.core" in finding.found and "numpy<2" in finding.remedy
    assert doctor.check_packages(["json"]).state == doctor.OK
    assert "rosdep" in doctor.check_packages(["no_such_module"]).remedy


def test_a_child_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(doctor, "CHILD_TIME_LIMIT_S", 1)
    code, text = doctor._child("import time; time.sleep(60)")
    assert code == 124 and "no answer" in text


def test_a_child_that_crashes_is_reported_by_its_last_line():
    code, text = doctor._child("import os; print('driver says no', flush=True); os.abort()")
    assert code != 0 and doctor._last_line(text) == "driver says no"
