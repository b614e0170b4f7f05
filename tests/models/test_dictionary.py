"""Dictionaries: features against a loop, and the files of SAELens, Gemma Scope and ours."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from circuitprune.errors import ModelError, RunError
from circuitprune.models.dictionary import (
    Dictionary,
    as_tensors,
    load_dictionaries,
    read_dictionary,
)

D, F = 6, 10


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = dict(W_enc=(D, F), b_enc=(F,), W_dec=(F, D), b_dec=(D,))
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def made(**kind: object) -> Dictionary:
    w = weights()
    return Dictionary("m1", w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], **kind)


def slow(x: torch.Tensor, dictionary: Dictionary) -> list[float]:
    """Features of one vector, number by number."""
    w, pre = weights(), []
    if dictionary.centred:
        x = x - w["b_dec"]
    for j in range(F):
        pre.append(sum(float(x[i] * w["W_enc"][i, j]) for i in range(D)) + float(w["b_enc"][j]))
    if dictionary.activation == "topk":
        least = sorted(pre)[-dictionary.k]
        return [max(p, 0.0) if p >= least else 0.0 for p in pre]
    if dictionary.activation == "jumprelu":
        return [
            p if p > float(t) and p > 0 else 0.0
            for p, t in zip(pre, dictionary.threshold, strict=True)
        ]
    return [max(p, 0.0) for p in pre]


KINDS = [
    {},
    dict(centred=True),
    dict(activation="topk", k=3),
    dict(activation="topk", k=8, centred=True),
    dict(activation="jumprelu", threshold=torch.linspace(-0.5, 2, F)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_formulas(kind) -> None:
    dictionary, x = made(**kind), torch.randn(7, D, generator=torch.Generator().manual_seed(1))
    found = dictionary.encode(x)
    assert_close(found, torch.tensor([slow(row, dictionary) for row in x]), rtol=1e-5, atol=1e-5)
    assert 0 < (found > 0).sum() < found.numel()
    assert_close(dictionary.decode(found), found @ weights()["W_dec"] + weights()["b_dec"])


def write(folder: Path, name: str, tensors, metadata=None, **beside: object) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, folder / name, metadata)
    for file, value in beside.items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    return folder


def test_saelens_folders(tmp_path) -> None:
    cfg = dict(
        architecture="topk",
        k=4,
        apply_b_dec_to_input=True,
        normalize_activations="none",
        metadata=dict(hook_name="blocks.3.hook_resid_post"),
        sha256="what the trainer says of its weights",  # no checksum of ours
    )
    (found,) = load_dictionaries(
        write(tmp_path / "a", "sae_weights.safetensors", weights(), cfg=cfg)
    )
    assert (found.site, found.activation, found.k, found.centred) == ("resid3", "topk", 4, True)
    old = dict(
        activation_fn_str="topk", activation_fn_kwargs=dict(k=2), hook_name="blocks.1.hook_mlp_out"
    )
    (found,) = load_dictionaries(
        write(tmp_path / "b", "sae_weights.safetensors", weights(), cfg=old)
    )
    assert (found.site, found.activation, found.k, found.centred) == ("m1", "topk", 2, False)
    plain = dict(architecture="standard", hook_name="blocks.0.hook_attn_out")
    (found,) = load_dictionaries(
        write(tmp_path / "c", "sae_weights.safetensors", weights(), cfg=plain)
    )
    assert (found.site, found.activation) == ("a0", "relu")


def test_gemma_scope_folders(tmp_path) -> None:
    small = {name.lower(): tensor for name, tensor in weights().items()}
    small["threshold"] = torch.full((F,), 0.5)
    place = tmp_path / "mlp_out" / "layer_7_width_16k_l0_small"
    place.parent.mkdir()
    (found,) = load_dictionaries(write(place, "params.safetensors", small))
    assert (found.site, found.activation) == ("m7", "jumprelu")
    assert_close(
        found.encode(torch.ones(D)),
        made(activation="jumprelu", threshold=small["threshold"]).encode(torch.ones(D)),
    )


def test_several_in_one_file_of_ours(tmp_path) -> None:
    both = {f"{site}.{name}": t for site in ("m0", "resid1") for name, t in weights().items()}
    about = {"m0.activation": "topk", "m0.k": "3", "resid1.activation": "relu"}
    path = write(tmp_path, "d.safetensors", both, about) / "d.safetensors"
    first, second = load_dictionaries(path)
    assert (first.site, first.activation, first.k) == ("m0", "topk", 3)
    assert (second.site, second.activation) == ("resid1", "relu")
    assert [one.site for one in load_dictionaries(path, "resid1")] == ["resid1"]
    with pytest.raises(ModelError, match="holds dictionaries of m0, resid1"):
        load_dictionaries(path, "m4")


@pytest.mark.parametrize("kind", KINDS)
def test_ours_are_read_back(kind) -> None:
    dictionary, x = made(**kind), torch.randn(9, D, generator=torch.Generator().manual_seed(2))
    read = read_dictionary(*as_tensors(dictionary), "m1")
    assert (read.activation, read.k, read.centred) == (
        dictionary.activation,
        dictionary.k,
        dictionary.centred,
    )
    assert_close(read.encode(x), dictionary.encode(x), rtol=2e-2, atol=2e-2)


def test_what_is_no_dictionary_is_refused(tmp_path) -> None:
    def load(tensors, **cfg):
        folder = write(tmp_path / "x", "sae_weights.safetensors", tensors, cfg=cfg)
        return load_dictionaries(folder, "m1")

    w = weights()
    for tensors, cfg, said in (
        ({"W_enc": w["W_enc"]}, {}, "has no b_enc, W_dec, b_dec"),
        ({**w, "W_dec": w["W_enc"].clone()}, {}, "do not fit each other"),
        (w, dict(architecture="gated"), "of kind 'gated'"),
        (w, dict(architecture="topk"), "k is 0"),
        (w, dict(architecture="jumprelu"), "needs a 'threshold'"),
        (w, dict(normalize_activations="layer_norm"), "fold that"),
    ):
        with pytest.raises(ModelError, match=said):
            load(tensors, **cfg)
    with pytest.raises(ModelError, match="does not say where"):
        load_dictionaries(write(tmp_path / "y", "one.safetensors", w))
    with pytest.raises(ModelError, match="stands at 'input'"):
        load_dictionaries(tmp_path / "y", "q3")
    with pytest.raises(RunError):
        load_dictionaries(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(RunError):
        load_dictionaries(tmp_path / "broken.safetensors", "m1")
