"""A file is as large as its kind may be, or it is not read."""

import os
import tracemalloc
from threading import Thread

import pytest

from circuitprune.errors import ConfigError, RunError
from circuitprune.files.limits import LIMITS, read_bytes


@pytest.mark.parametrize("kind", LIMITS)
def test_a_larger_file_is_refused_before_it_is_read(tmp_path, kind, monkeypatch):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, LIMITS[kind] + 1)  # takes no room on the disk
    with pytest.raises(RunError) as caught:
        read_bytes(path, kind)
    assert f"{LIMITS[kind] + 1:,} bytes" in str(caught.value)
    assert f"at most {LIMITS[kind]:,}" in str(caught.value) and str(path) in str(caught.value)


def test_a_file_up_to_the_limit_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path / "a", "config", most=100) == b"x" * 100
    with pytest.raises(ConfigError, match="has 100 bytes; a config has at most 99"):
        read_bytes(tmp_path / "a", "config", most=99, error=ConfigError)


def test_a_file_without_a_size_ends_at_the_limit():
    with pytest.raises(RunError, match="at most 100,000"):
        read_bytes("/dev/zero", "config")


def test_reading_takes_as_much_memory_as_the_file(tmp_path):
    """Asked for its limit of 8 GB, Python would set that much aside."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    try:
        assert len(read_bytes(path, "tensors")) == 3_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_pipe_is_read_to_its_end(tmp_path):
    pipe, data = tmp_path / "pipe", bytes(range(256)) * 10_000
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=[data])
    writer.start()
    assert read_bytes(pipe, "pairs") == data
    writer.join()


@pytest.mark.parametrize("name", ["absent", "a\0b", "."])
def test_what_cannot_be_read_says_why(tmp_path, name):
    with pytest.raises(RunError, match="cannot be read: "):
        read_bytes(f"{tmp_path}/{name}", "json")
