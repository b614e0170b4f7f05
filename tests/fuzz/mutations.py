"""Files that are almost right: one to three faults put into a valid one, and plain noise."""

import io
import json
import string
import zipfile
from copy import deepcopy

import torch
from hypothesis import strategies as st

HUGE = 10**12
RAW, AGAIN = "@raw:", "@again:"
"""Before a text that stands in the file as it is, and before a key that is to stand there twice."""

TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "\u202e",
    "\x1b[31m",
    "a.b",
    "../../etc/passwd",
    "/dev/zero",
    "~no-such-user/x",
    "$" + "{oc.env:HOME}",
    "\\x24{oc.env:HOME}",
    "input->m0",
    "a0.h0",
    "float32",
    "é" * 300,
    "9" * 5000,
]
NUMBERS = [0, -1, 1, 2, 3, 2**31, 2**63 - 1, -(2**63), HUGE, 0.5, -0.0, 1e308, 5e-324]
TOKENS = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "01", "--", "[" * 1200, "\ufeff"]
ODD = st.one_of(
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}]),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from([RAW + token for token in TOKENS]),
    st.text(max_size=8),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
).map(deepcopy)
"""Values of every kind that JSON has, and some that it has not."""
NAMES = st.sampled_from(["", "x", "input->m0", "a0.h0", "sha256", "size", "n_edges", "\0", "é"])


def _places(value, limit=400):
    """Every container of a value, the first ones if there are many."""
    found, waiting = [], [value]
    while waiting and len(found) < limit:
        one = waiting.pop(0)
        if isinstance(one, dict | list) and one:
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one[:20]
    return found


FAULTS = ("drop", "rename", "twice", "odd", "odd", "odd", "more", "nest")


@st.composite
def damaged(draw, value):
    """A copy with one to three of its parts dropped, renamed, repeated, replaced or exchanged."""
    whole = [deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        places = _places(whole[0]) or [whole]
        place = draw(st.sampled_from(range(len(places))))
        place = whole if draw(st.integers(0, 30)) == 0 else places[place]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys[:200]))
        _change(draw, place, key, draw(st.sampled_from(FAULTS)))
        if not whole:
            return None
    return whole[0]


def _change(draw, place, key, how):
    if how == "drop":
        del place[key]
    elif how == "rename" and isinstance(place, dict):
        place[draw(NAMES)] = place.pop(key)
    elif how == "twice" and isinstance(place, dict) and isinstance(key, str):
        place[AGAIN + key] = draw(ODD)
    elif how == "more" and isinstance(place, dict):
        place[draw(st.one_of(NAMES, st.text(max_size=5)))] = draw(ODD)
    elif how == "more":
        place.extend(place[key : key + 1] * draw(st.sampled_from([1, 50])))
    elif how == "nest":
        depth = draw(st.sampled_from([1, 30, 900]))
        for _ in range(depth):
            place[key] = [place[key]]
    else:
        place[key] = draw(ODD)


def written(value) -> bytes:
    """A value as JSON text, with what JSON has no words for."""
    text = _text(value).replace(f'"{AGAIN}', '"')
    for token in TOKENS:
        text = text.replace(json.dumps(RAW + token), token)
    return text.encode("utf-8", "surrogatepass")


def _text(value):
    depth = 0
    while isinstance(value, list) and len(value) == 1:  # json.dumps itself has a limit
        value, depth = value[0], depth + 1
    try:
        return "[" * depth + json.dumps(value) + "]" * depth
    except RecursionError:
        return "[" * 900


@st.composite
def torn(draw, data: bytes):
    """Bytes cut short, flipped, repeated or with others put in between; often as they were."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["cut", "flip", "twice", "put"]))
        if how == "cut":
            data = data[:at]
        elif how == "flip" and data:
            data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
        elif how == "twice":
            data = data[:at] + data[max(0, at - 40) :]
        else:
            data = data[:at] + draw(st.binary(max_size=6)) + data[at:]
    return data


def json_files(value):
    """A JSON file that was once `value`."""
    return damaged(value).map(written).flatmap(torn)


NOISE = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(alphabet='[]{}",:0123456789eE.-+ \n\ttruefalsn\\u', max_size=100).map(str.encode),
    st.text(alphabet=string.printable, max_size=200).map(str.encode),
    st.recursive(ODD, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)).map(written),
)
"""Bytes, texts, texts in the letters of JSON, and JSON of no meaning."""

# ---------------------------------------------------------------- tensors

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@st.composite
def odd_tensor(draw, tensor):
    """One of another shape or dtype, or with values that are none."""
    how = draw(st.sampled_from(["dtype", "longer", "shorter", "empty", "scalar", "row", "nan"]))
    if how == "dtype":
        return tensor.to(draw(st.sampled_from(DTYPES)))
    if how in ("longer", "shorter") and tensor.ndim:
        return torch.cat([tensor, tensor[:1]]) if how == "longer" else tensor[:-1]
    if how == "nan" and tensor.is_floating_point():
        return torch.full_like(tensor, draw(st.sampled_from([torch.nan, torch.inf, -torch.inf])))
    shapes = {"empty": (0,), "scalar": (), "row": (1, *tensor.shape)}
    return torch.zeros(shapes.get(how, (3, 0)), dtype=tensor.dtype)


@st.composite
def damaged_tensors(draw, tensors, notes):
    """Tensors and metadata, one to three of them dropped, renamed or replaced."""
    tensors, notes, given = dict(tensors), dict(notes), notes
    texts = st.one_of(ODD.map(lambda odd: written(odd).decode("utf-8", "replace")), st.text())
    for _ in range(draw(st.integers(1, 3))):
        within = draw(st.sampled_from([part for part in (tensors, notes) if part] or [{"x": 0}]))
        key = draw(st.sampled_from(sorted(within)))
        how = draw(st.sampled_from(["drop", "rename", "odd", "odd", "json"]))
        if how == "drop":
            del within[key]
        elif how == "rename":
            other = draw(st.sampled_from(["x", "scores", "ranking", "nodes", "job"]))
            within[other] = within.pop(key)
        elif within is tensors:
            tensors[key] = draw(odd_tensor(tensors[key]))
        elif how == "json" and notes[key] in given.values() and notes[key][:1] == "{":
            data = draw(damaged(json.loads(notes[key])).map(written))
            notes[key] = data.decode("utf-8", "replace")
        else:
            notes[key] = draw(texts)
    return tensors, notes


@st.composite
def odd_header(draw, data: bytes):
    """A safetensors file whose header, with its shapes and places, is not what it was."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if draw(st.booleans()):
        name = draw(st.sampled_from([key for key in header if key != "__metadata__"] or ["x"]))
        sizes = draw(st.lists(st.sampled_from([0, 1, 3, -1, HUGE, 2**63, 2**64]), max_size=3))
        header.setdefault(name, {})["shape"] = sizes
        if draw(st.booleans()):
            header[name]["data_offsets"] = [0, draw(st.sampled_from([0, 8, 4 * HUGE, 2**64]))]
        text = json.dumps(header).encode()
    else:
        text = draw(damaged(header).map(written))
    said = draw(st.sampled_from([len(text), len(text), len(text), 0, 7, HUGE, 2**64 - 1]))
    return said.to_bytes(8, "little") + text + data[8 + length :]


# ---------------------------------------------------------------- checkpoints


@st.composite
def damaged_checkpoint(draw, value):
    """What `torch.save` makes of a damaged tree, or an archive with other parts."""
    tree = draw(damaged(value))
    content = io.BytesIO()
    try:
        torch.save(tree, content)
    except (RecursionError, ValueError):
        return b""
    data = content.getvalue()
    if draw(st.integers(0, 3)):
        return draw(torn(data))
    return draw(_repacked(data))


@st.composite
def _repacked(draw, data):
    content = io.BytesIO()
    how = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(content, "w", how) as new:
        changed = draw(st.sampled_from(old.namelist()))
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, draw(torn(part) | NOISE) if name == changed else part)
    return content.getvalue()


# ---------------------------------------------------------------- settings


YAML = ["&a", "*a", "!!python/name:os.system", "? [a]", "<<: {}", "---", "%YAML 9.9", "- x", "\t"]
YAML += ['"\\Uffffffff"', '"\\ud800"', "'", "|", ">-", "{", "[", ": :", "#", "\x85", "\x07", "~"]


def yaml_files(tree):
    """A config as text: damaged, as JSON, which is yaml too, or line by line."""
    lines = json.dumps(tree, indent=1).replace('"', "").split("\n")
    line = st.one_of(st.sampled_from(lines), st.sampled_from(YAML))
    mixed = st.lists(line, max_size=12).map("\n".join)
    whole = damaged(tree).map(written).map(lambda data: data.replace(b"\\u", b"\\x"))
    return st.one_of(whole, mixed.map(str.encode)).flatmap(torn)


TYPED = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(TOKENS),
    st.sampled_from(NUMBERS).map(str),
    ODD.map(lambda odd: written(odd).decode("utf-8", "replace")),
    st.sampled_from(["&a [*a]", "!!int 3", "[1,", "{a: 1}", "'", '"\\Uffffffff"', "null", "???"]),
    st.text(max_size=12),
)
"""What may stand behind `key=`."""

# ---------------------------------------------------------------- CSV


@st.composite
def csv_files(draw, rows):
    """A table with cells, columns and rows changed."""
    rows = [list(row) for row in rows]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        at = draw(st.integers(0, max(0, len(row) - 1)))
        cell = draw(st.one_of(st.sampled_from([t for t in TEXTS if "\ud800" not in t]), st.text()))
        how = draw(st.sampled_from(["replace", "drop", "more", "again"]))
        if how == "replace" and row:
            row[at] = cell
        elif how == "drop":
            del row[at : at + 1]
        elif how == "more":
            row.insert(at, cell)
        else:
            rows.append(list(row))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    quoted = draw(st.booleans())
    text = end.join(",".join(f'"{cell}"' if quoted else cell for cell in row) for row in rows)
    return draw(torn(text.encode("utf-8", "surrogatepass")))
