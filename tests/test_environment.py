"""What a run tells of the machine, the versions and the time it was made in."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import torch
from small_methods import tiny

from fastssl import _environment, methods


def test_sessions_of_a_run_that_is_stopped_and_resumed(tmp_path):
    path = tmp_path / "config.json"

    def session(resumed, error=None):
        with _environment.recorded(path, {"method": "SimCLR"}, resumed):
            during = json.loads(path.read_text())
            assert during["method"] == "SimCLR"
            assert set(during["sessions"][-1]) == {"started"}
            if error is not None:
                raise error
        return json.loads(path.read_text())["sessions"]

    with pytest.raises(KeyboardInterrupt):
        session(False, KeyboardInterrupt())
    sessions = session(True)
    assert [set(each) for each in sessions] == [{"started", "seconds"}] * 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", sessions[0]["started"])
    assert len(session(False)) == 1
    for before in ("{", "[]", '{"sessions": 1}', "{}"):  # of a version that kept none, or of nothing readable
        path.write_text(before)
        assert len(session(True)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_environment(accelerator):
    told = _environment.environment(accelerator)
    assert told["device"] == ("cuda" if accelerator == "auto" and torch.cuda.is_available() else "cpu")
    assert told["threads"] == torch.get_num_threads()
    assert f"{_environment.cores()} cores" in told["machine"]
    assert json.loads(json.dumps(told)) == told


def test_commit(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{10}(-dirty)?", _environment.commit() or "0000000000")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path))
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(_environment, "_ROOT", tmp_path / "site-packages")
    assert _environment.commit() is None  # that of the folders above is somebody else's
    monkeypatch.setattr(_environment, "_ROOT", tmp_path)
    assert _environment.commit() is None  # none yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert re.fullmatch(r"[0-9a-f]{10}", _environment.commit())


def test_versions():
    found = _environment.versions(("timm", "no-such-package"))
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "timm" in found
    assert "no-such-package" not in found


def test_arguments_that_a_method_keeps():
    assert _environment.arguments(methods.SimCLR(tiny(), temperature=torch.tensor(0.25))) == {"temperature": 0.25}
    assert _environment.arguments(methods.BYOL(tiny(), image_size=8)) == {"momentum": 0.996, "image_size": 8}
