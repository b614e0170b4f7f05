"""Writes are whole or absent, and a damaged file is never read silently."""

import json
import os
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from circuitprune.errors import RunError
from circuitprune.files import whole as files
from circuitprune.files.limits import HEADER, LIMITS


def test_write_atomic_writes_text_and_bytes(tmp_path):
    files.write_atomic(tmp_path / "new" / "a.txt", "é\n")
    files.write_atomic(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((RunError, KeyboardInterrupt)) as caught:
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
    if isinstance(error, OSError):
        assert isinstance(caught.value, RunError) and "a.json" in str(caught.value)
        assert "No space left" in str(caught.value)


def test_a_reader_sees_the_whole_content_before_the_rename(tmp_path, monkeypatch):
    replaced = []
    original = os.replace

    def watch(source, target):
        replaced.append((os.path.dirname(source), Path(source).read_text()))
        original(source, target)

    monkeypatch.setattr(os, "replace", watch)
    files.write_atomic(tmp_path / "a", "whole")
    assert replaced == [(str(tmp_path), "whole")]


def test_what_a_link_leads_to_is_written(tmp_path):
    """The link stays; one that leads to nothing yet too."""
    (tmp_path / "there").mkdir()
    for name, before in (("old", "x"), ("new", None)):
        target, link = tmp_path / "there" / name, tmp_path / f"{name}_link"
        if before is not None:
            target.write_text(before)
        link.symlink_to(Path("there") / name)
        files.write_atomic(link, "whole")
        assert link.is_symlink() and target.read_text() == "whole"
    assert len(os.listdir(tmp_path / "there")) == 2


def test_a_pipe_is_written_and_stays_one(tmp_path):
    """A device such as /dev/null would be gone if a file took its place."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomic(tmp_path / "pipe", "whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_readable_and_strict(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5], "b": None})
    assert path.read_text().startswith('{\n  "a"') and path.read_text().endswith("}\n")
    assert files.read_json(path) == {"a": [1, 2.5], "b": None}
    for bad in (float("nan"), float("inf"), object()):
        with pytest.raises(RunError, match=r"a\.json was not written"):
            files.write_json(path, {"a": bad})
    assert files.read_json(path) == {"a": [1, 2.5], "b": None}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_read_json_names_a_broken_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"broken\.json is not a JSON file"):
        files.read_json(path)


def test_a_checked_file_is_read_as_it_was_written_or_not_at_all(tmp_path):
    value = {"b": [1, -0.0, 1e-300, None], "a": {"10": "\u2028", "9": True}}
    files.write_json(tmp_path / "x.json", value, checked=True)
    assert files.read_json(tmp_path / "x.json", checked=True) == value
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("1e-300", "1e-301"))
    with pytest.raises(RunError, match=r"x\.json is not as it was written"):
        files.read_json(tmp_path / "x.json", checked=True)
    (tmp_path / "x.json").write_text(json.dumps(json.loads(text)))  # laid out otherwise
    assert files.read_json(tmp_path / "x.json", checked=True) == value


def test_a_checksum_is_asked_of_our_own_files_alone(tmp_path):
    """A key of that name in another program's file is a key as any other."""
    theirs = {"sha256": "of some weights", "b": 1}
    (tmp_path / "x.json").write_text(json.dumps(theirs))
    assert files.read_json(tmp_path / "x.json") == theirs
    for said in ("of some weights", 3, None):
        (tmp_path / "x.json").write_text(json.dumps({"sha256": said, "b": 1}))
        with pytest.raises(RunError, match="is not as it was written"):
            files.read_json(tmp_path / "x.json", checked=True)
    (tmp_path / "x.json").write_text('{"b": 1}')  # of a version without
    assert files.read_json(tmp_path / "x.json", checked=True) == {"b": 1}


def test_read_json_names_a_missing_file(tmp_path):
    with pytest.raises(RunError, match=r"gone\.json cannot be read: No such file"):
        files.read_json(tmp_path / "gone.json")


TENSORS = {
    "scores": torch.arange(6, dtype=torch.float32).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, TENSORS, {"model": "gpt2", "note": "</script>"})
    return path


def test_tensors_come_back_equal(saved):
    tensors, metadata = files.read_tensors(saved, finite=True)
    assert metadata == {"model": "gpt2", "note": "</script>"}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


def test_views_and_shared_memory_can_be_written(tmp_path):
    base = torch.arange(6.0)
    files.write_tensors(tmp_path / "x", {"a": base[::2], "b": base, "c": base})
    tensors, metadata = files.read_tensors(tmp_path / "x")
    assert metadata == {} and tensors["a"].tolist() == [0, 2, 4]
    assert torch.equal(tensors["b"], base) and torch.equal(tensors["c"], base)


def test_same_tensors_give_the_same_bytes(saved, tmp_path):
    again = tmp_path / "again"
    files.write_tensors(again, TENSORS, {"model": "gpt2", "note": "</script>"})
    assert again.read_bytes() == saved.read_bytes()


def test_safetensors_itself_reads_the_file(saved):
    with safetensors.safe_open(saved, "pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert torch.equal(file.get_tensor("scores"), TENSORS["scores"])
        assert file.metadata()["model"] == "gpt2" and len(file.metadata()["sha256"]) == 64


def test_a_flipped_bit_anywhere_is_refused(saved):
    good = saved.read_bytes()
    for position in range(len(good)):
        saved.write_bytes(good[:position] + bytes([good[position] ^ 0x04]) + good[position + 1 :])
        with pytest.raises(RunError, match=r"checksum|truncated|not a safetensors") as caught:
            files.read_tensors(saved)
        assert "x.safetensors" in str(caught.value)


def test_a_flipped_body_byte_says_checksum_mismatch(saved):
    good = saved.read_bytes()
    saved.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RunError, match=r"checksum mismatch in .*x\.safetensors"):
        files.read_tensors(saved)


@pytest.mark.parametrize("keep", [0, 4, 8, 50, -1])
def test_a_truncated_file_is_named(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"x\.safetensors .*truncated"):
        files.read_tensors(saved)


def test_a_file_without_checksum_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2)}))
    with pytest.raises(RunError, match="has no checksum"):
        files.read_tensors(path)


@pytest.mark.parametrize("header", [b"[]", b"{{{", json.dumps({"a": 1}).encode()])
def test_a_wrong_header_is_refused(tmp_path, header):
    path = tmp_path / "odd"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RunError, match="odd is not a safetensors file"):
        files.read_tensors(path)


def test_non_finite_values_are_refused_where_asked(tmp_path):
    files.write_tensors(
        tmp_path / "x", {"good": torch.ones(2), "bad": torch.tensor([0, torch.nan])}
    )
    assert files.read_tensors(tmp_path / "x")[0]["bad"].isnan().any()
    with pytest.raises(RunError, match=r"NaN or infinite values in bad$"):
        files.read_tensors(tmp_path / "x", finite=True)


def test_the_checksum_key_is_reserved(tmp_path):
    with pytest.raises(RunError, match="'sha256' is reserved"):
        files.write_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {"sha256": "0"})


# ---------------------------------------------------------------- sizes


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x"
    path.touch()
    for kind, read in (("json", files.read_json), ("tensors", files.read_tensors)):
        os.truncate(path, LIMITS[kind] + 1)
        with pytest.raises(RunError, match=f"at most {LIMITS[kind]:,} here"):
            read(path)


def test_a_long_header_is_refused_before_the_file_is_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes((HEADER + 1).to_bytes(8, "little") + b" " * (HEADER + 1))
    with pytest.raises(RunError, match=r"a header of 1,000,001 bytes; .* most 1,000,000"):
        files.read_tensors(path)
