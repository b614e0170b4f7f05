"""Dictionaries: sparse autoencoders of what is written somewhere in a model.

`f = act(x W_enc + b_enc)` are the features of an activation x and `x_hat = f W_dec + b_dec` what
they say of it; what is left, `x - x_hat`, is the error. Read from the safetensors of SAELens, of
Gemma Scope, or our own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from circuitprune.errors import ModelError
from circuitprune.files.records import JsonObject
from circuitprune.files.text import counted
from circuitprune.files.whole import read_foreign_tensors, read_json
from circuitprune.models.zoo import dictionary_path

Activation = Literal["relu", "topk", "jumprelu"]
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_HOOKS = (
    (r"blocks\.(\d+)\.hook_resid_post", "resid{0}"),
    (r"blocks\.(\d+)\.hook_mlp_out", "m{0}"),
    (r"blocks\.(\d+)\.hook_attn_out", "a{0}"),
    (r"hook_embed|blocks\.0\.hook_resid_pre", "input"),
    (r".*resid_post\w*[/_]layer_(\d+)_.*", "resid{0}"),
    (r".*mlp_out\w*[/_]layer_(\d+)_.*", "m{0}"),
    (r".*attn_out\w*[/_]layer_(\d+)_.*", "a{0}"),
)
"""Places as TransformerLens, and as the folders of Gemma Scope, name them."""
SITE = r"input|(?:m|a|resid)\d{1,4}"
"""Where a dictionary can stand: what an MLP or a layer's attention writes, the stream behind a
layer, or what enters the first."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse autoencoder and where it stands.

    Args:
        site: `m3` (what an MLP writes), `a3` (a layer's attention), `resid3` (the stream behind a
            layer) or `input`.
        w_enc, b_enc, w_dec, b_dec: Its weights, rows of `w_dec` being the features' directions.
        activation: `relu`, `topk` (the k largest, if positive) or `jumprelu`
            (`pre * (pre > threshold)` where that is positive).
        k: topk: features that are on at a position.
        threshold: jumprelu: of each feature.
        centred: `b_dec` is taken off x before it is encoded.

    Raises:
        ModelError: shapes that do not fit each other, or an activation without what it needs.
    """

    site: str
    w_enc: Float[Tensor, "d_model feature"]
    b_enc: Float[Tensor, " feature"]
    w_dec: Float[Tensor, "feature d_model"]
    b_dec: Float[Tensor, " d_model"]
    activation: Activation = "relu"
    k: int = 0
    threshold: Float[Tensor, " feature"] | None = None
    centred: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(SITE, self.site):
            raise ModelError(
                f"a dictionary stands at 'input', 'm3', 'a3' or 'resid3', not {self.site!r:.60}"
            )
        if self.activation == "topk" and not 1 <= self.k <= self.n_features:
            raise ModelError(
                f"topk keeps 1 to {counted(self.n_features, 'feature')}, and k is {self.k}: say "
                "it in cfg.json"
            )
        if self.activation == "jumprelu" and self.threshold is None:
            raise ModelError("a jumprelu dictionary needs a 'threshold' for each feature")

    @property
    def n_features(self) -> int:
        """Features."""
        return len(self.w_dec)

    @property
    def d_model(self) -> int:
        """Width of what it is of."""
        return int(self.w_dec.shape[1])

    def encode(self, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any feature"]:
        """How much of each feature is in x; none is negative."""
        x = x - self.b_dec if self.centred else x
        pre = x @ self.w_enc + self.b_enc
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold)
        if self.activation == "relu":
            return pre.relu()
        values, at = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, at, values.relu())

    def decode(self, f: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any d_model"]:
        """What features say of x."""
        return f @ self.w_dec + self.b_dec

    def to(self, like: Float[Tensor, "..."]) -> "Dictionary":
        """The same in a tensor's type, where that tensor is."""
        names = ("w_enc", "b_enc", "w_dec", "b_dec")
        moved = {name: getattr(self, name).detach().to(like) for name in names}
        threshold = None if self.threshold is None else self.threshold.detach().to(like)
        return replace(self, **moved, threshold=threshold)


# ---------------------------------------------------------------- files


def read_dictionaries(names: Sequence[str]) -> list[Dictionary]:
    """All dictionaries that `features.dictionaries` names: files, folders, `PLACE=FILE`, the zoo's.

    Raises:
        RunError, ModelError: as `load_dictionaries`.
    """
    found = list[Dictionary]()
    for site, _, path in (name.rpartition("=") for name in names):
        found += load_dictionaries(dictionary_path(path), site or None)
    return found


def load_dictionaries(path: str | Path, site: str | None = None) -> list[Dictionary]:
    """The dictionaries in a safetensors file, or in a folder with one and a `cfg.json` beside it.

    Keys are those of SAELens and Gemma Scope, in capitals or not: `W_enc, b_enc, W_dec, b_dec` and
    `threshold`. Ours have them behind the site's name, `m3.W_enc`, several in one file. What is not
    in the tensors (activation, k, place) is read from the file's metadata, from `cfg.json`
    (SAELens) or `config.json` (Gemma Scope 2).

    Args:
        path: The file or folder.
        site: Where it stands, in place of what the file says.

    Raises:
        RunError: missing, damaged, or no safetensors.
        ModelError: no dictionary, of a kind that is not known, or it is not said where it stands.
    """
    path = Path(path)
    file = _tensors_of(path) if path.is_dir() else path
    tensors, notes = read_foreign_tensors(file)
    about = _about(file, notes)
    sites = sorted({name.rpartition(".")[0] for name in tensors if "." in name})
    if not sites:
        return [_of(file, tensors, about, site or _site_said(file, about))]
    if site is not None and site not in sites:
        raise ModelError(f"{file} holds dictionaries of {', '.join(sites)}, none of {site!r:.60}")
    chosen = sites if site is None else [site]
    return [_of(file, _under(tensors, one), _own(about, one), one) for one in chosen]


def as_tensors(dictionary: Dictionary) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A dictionary as a file of ours holds it: tensors in float16, and metadata."""
    site, values = dictionary.site, dict(zip(NAMES, _weights(dictionary), strict=True))
    tensors = {f"{site}.{name}": t.half() for name, t in values.items() if t is not None}
    about = {"activation": dictionary.activation, "k": str(dictionary.k)}
    about["apply_b_dec_to_input"] = str(dictionary.centred).lower()
    return tensors, {f"{site}.{name}": said for name, said in about.items()}


def read_dictionary(
    tensors: Mapping[str, Shaped[Tensor, "..."]], notes: Mapping[str, str], site: str
) -> Dictionary:
    """The dictionary of one place among the tensors and the metadata of a file of ours."""
    return _of(Path(site), _under(tensors, site), _own(dict(notes), site), site)


def _weights(dictionary: Dictionary) -> tuple[Tensor | None, ...]:
    """In the order of `NAMES`."""
    one = dictionary
    return one.w_enc, one.b_enc, one.w_dec, one.b_dec, one.threshold


def _tensors_of(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    known = [
        file for file in files if file.name in ("sae_weights.safetensors", "params.safetensors")
    ]
    found = known or files
    if len(found) != 1:
        raise ModelError(
            f"{folder} holds {counted(len(files), 'safetensors file')}, expected one; name the "
            "file itself"
        )
    return found[0]


def _about(file: Path, notes: Mapping[str, str]) -> JsonObject:
    """What is said of a file's dictionaries beside their tensors, flat."""
    about: JsonObject = dict(notes)
    for name in ("cfg.json", "config.json"):
        beside = file.parent / name
        value = read_json(beside) if beside.is_file() else None
        if isinstance(value, dict):
            inner = value.get("metadata")
            about |= {**value, **(inner if isinstance(inner, dict) else {})}
    return about


def _under(tensors: Mapping[str, Shaped[Tensor, "..."]], site: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{site}."): t for n, t in tensors.items() if n.startswith(f"{site}.")}


def _own(about: JsonObject, site: str) -> JsonObject:
    return {n.removeprefix(f"{site}."): v for n, v in about.items() if n.startswith(f"{site}.")}


def _site_said(file: Path, about: JsonObject) -> str:
    said = [about.get(name) for name in ("site", "hook_name", "hook_point", "hf_hook_point_in")]
    for place in (*(one for one in said if isinstance(one, str)), str(file.resolve())):
        if re.fullmatch(SITE, place):
            return place
        for pattern, site in _HOOKS:
            if found := re.fullmatch(pattern, place):
                return site.format(*found.groups())
    raise ModelError(
        f"{file} does not say where its dictionary stands; write its place in front, such as "
        f"m3={file.name}, a3=..., resid3=... or input=..."
    )


def _of(
    file: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], about: JsonObject, site: str
) -> Dictionary:
    by_name = {name.lower(): tensor for name, tensor in tensors.items()}
    missing = [name for name in NAMES[:4] if name.lower() not in by_name]
    if missing:
        raise ModelError(
            f"{file} is no dictionary: it has no {', '.join(missing)}, only "
            f"{', '.join(tensors):.200}"
        )
    w_enc, b_enc, w_dec, b_dec = (by_name[name.lower()].float() for name in NAMES[:4])
    if w_enc.ndim != 2 or w_dec.shape != w_enc.T.shape or b_enc.shape != w_enc.shape[1:]:
        shapes = {name: tuple(by_name[name.lower()].shape) for name in NAMES[:4]}
        raise ModelError(f"{file}: the shapes of a dictionary do not fit each other: {shapes}")
    scaled = about.get("normalize_activations", "none")
    if scaled not in ("none", None):
        raise ModelError(
            f"{file} was trained on activations that were normalised ({scaled!r:.60}); fold that "
            "into its weights first (SAELens: fold_activation_norm_scaling_factor)"
        )
    threshold = by_name.get("threshold")
    activation, k = _activation(file, about, threshold is not None)
    return Dictionary(
        site,
        w_enc,
        b_enc,
        w_dec,
        b_dec.reshape(-1),
        activation,
        k,
        None if threshold is None else threshold.float().reshape(-1).expand(len(b_enc)),
        _truth(about.get("apply_b_dec_to_input", False)),
    )


def _activation(file: Path, about: JsonObject, has_threshold: bool) -> tuple[Activation, int]:
    """The activation and k that a file says; without a word, what its tensors are of."""
    inner = about.get("activation_fn_kwargs")
    k = (inner if isinstance(inner, dict) else {}).get("k", about.get("k", 0))
    names = ("activation", "architecture", "activation_fn_str", "activation_fn")
    said = [
        str(about[name]).lower().replace("-", "").replace("_", "")
        for name in names
        if name in about
    ]
    for one in said:
        if one in get_args(Activation):
            return one, int(k or 0) if one == "topk" else 0  # type: ignore[return-value]
    if unknown := [one for one in said if one not in ("standard", "relu")]:
        raise ModelError(
            f"{file} is a dictionary of kind {unknown[0]!r:.40}; known are "
            f"{', '.join(get_args(Activation))}"
        )
    return ("jumprelu" if has_threshold else "relu"), 0


def _truth(value: object) -> bool:
    return value is True or str(value).lower() == "true"
