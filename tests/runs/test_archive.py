"""Checkpoints that ask for more memory than they have bytes are refused before it is taken."""

import io
import os
import zipfile

import pytest
import torch

from circuitprune.errors import RunError
from circuitprune.files.limits import HEADER, LIMITS
from circuitprune.runs.folder import read_checkpoint

WHOLE = {
    "global_step": 7,
    "state_dict": {"learner.scores": torch.arange(5.0)},
    "optimizer_states": [
        {"state": {0: {"exp_avg": torch.zeros(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    ],
    "lr_schedulers": [{"base_lrs": [0.1]}],
    "loops": {"fit_loop": {}},
    "job": {},
    "lr": 0.1,
}


def saved(value) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def repacked(data: bytes, compression: int = zipfile.ZIP_STORED, **instead: bytes) -> bytes:
    """The same archive with other parts, by their names, and perhaps compressed."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(content, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, instead.get(name.rpartition("/")[2], old.read(name)))
    return content.getvalue()


def refused(path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(RunError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def calling(name: str, argument: str) -> bytes:
    """A description that calls what it names, in the words of a pickle of protocol 2."""
    return f"\x80\x02c{name}\n(I{argument}\ntR.".encode("latin-1")


@pytest.mark.parametrize("number", range(5))
def test_a_flipped_bit_in_a_tensor_is_seen(tmp_path, number):
    """Each part of the archive carries a checksum, which torch does not look at."""
    data = bytearray(saved(WHOLE))
    data[bytes(data).index(torch.arange(5.0).numpy().tobytes()) + 4 * number] ^= 1
    assert "not what was written" in refused(tmp_path / "a", bytes(data))


def test_a_checkpoint_comes_back_as_torch_reads_it(tmp_path):
    (tmp_path / "a").write_bytes(saved(WHOLE))
    found = read_checkpoint(tmp_path / "a")
    assert torch.equal(found["state_dict"]["learner.scores"], torch.arange(5.0))
    assert found["global_step"] == 7


@pytest.mark.parametrize(
    "name", ["__builtin__\nbytearray", "builtins\nbytearray", "torch\nTensor", "torch\nSize"]
)
def test_a_description_that_asks_for_memory_is_refused(tmp_path, name):
    """Torch holds some of these for safe, with any number behind them."""
    data = repacked(saved(WHOLE), **{"data.pkl": calling(name, "4000000000")})
    assert f"the name {name.replace(chr(10), ' ')!r}" in refused(tmp_path / "a", data)


def test_parts_that_unpack_to_more_are_refused(tmp_path):
    data = saved(WHOLE | {"more": torch.zeros(1_000_000)})
    small = repacked(data, zipfile.ZIP_DEFLATED)
    assert len(small) < len(data) / 10
    assert "parts that unpack to more than its" in refused(tmp_path / "a", small)


def test_a_long_description_and_many_parts_are_refused(tmp_path):
    long = repacked(saved(WHOLE), **{"data.pkl": b"\x80\x02" + b"N0" * HEADER + b"N."})
    assert f"a description of more than {HEADER:,} bytes" in refused(tmp_path / "a", long)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(1001):
            archive.writestr(f"archive/data/{number}", b"")
    assert "more than 1,000 parts" in refused(tmp_path / "a", content.getvalue())


def test_a_number_repeated_a_billion_times_is_refused(tmp_path):
    stretched = torch.zeros(1).expand(10**9)
    data = saved(WHOLE | {"optimizer_states": [{"state": {0: {"exp_avg": stretched}}}]})
    assert len(data) < 10_000
    assert "a tensor of more than its" in refused(tmp_path / "a", data)


def test_a_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "a"
    path.touch()
    os.truncate(path, LIMITS["checkpoint"] + 1)
    with pytest.raises(RunError, match=f"a checkpoint has at most {LIMITS['checkpoint']:,} here"):
        read_checkpoint(path)
