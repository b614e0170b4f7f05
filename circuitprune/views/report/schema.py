"""The JSON Schema of what a run writes and a report holds, made from its dataclasses alone.

`python -m circuitprune.views.report.schema` writes `schema.json`, and `data.d.ts` for the page.
"""

import ast
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Required, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as is_open

from circuitprune.files.records import JsonObject, may_be_absent
from circuitprune.runs.frontier import FrontierFile
from circuitprune.views.report.declarations import declarations
from circuitprune.views.report.records import ReportData

ROOTS = (FrontierFile, ReportData)
"""All other files are parts of what a report holds."""
PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def json_schema() -> JsonObject:
    """Every record by its name under `$defs`; its fields' docstrings are descriptions."""
    found: dict[str, JsonObject] = {}
    for root in ROOTS:
        _schema(root, found)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "$defs": dict(sorted(found.items()))}


def _schema(kind: object, found: dict[str, JsonObject]) -> JsonObject:
    """Of one type; records that it names are added to `found`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and (is_dataclass(kind) or is_open(kind)):
        if kind.__name__ not in found:
            found[kind.__name__] = _record(kind, found)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin in (Annotated, Required):  # what is annotated is checked by the page alone
        return _schema(arguments[-1], found)
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(one, found) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is ...:
        return {"type": "array", "items": _schema(arguments[0], found)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_schema(one, found) for one in arguments]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], found)}
    assert isinstance(kind, type)
    return {"type": PLAIN[kind]}


def _record(kind: type, found: dict[str, JsonObject]) -> JsonObject:
    kinds, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    names, needed = list(kinds), [n for n in kinds if get_origin(kinds[n]) is Required]
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        needed = [field.name for field in fields(kind) if not may_be_absent(field)]
    parts = {name: {**_schema(kinds[name], found), "description": docs[name]} for name in names}
    about = {"type": "object", "description": (kind.__doc__ or "").partition("\n")[0]}
    closed = {"additionalProperties": False} if is_dataclass(kind) else {}
    return {**about, "properties": parts, "required": needed, **closed}


def _docs(kind: type) -> dict[str, str]:
    """The docstring under each field, those of its bases too."""
    found: dict[str, str] = {}
    body, around = ast.parse(inspect.getsource(kind)).body[0], vars(inspect.getmodule(kind))
    assert isinstance(body, ast.ClassDef)
    for base in [around[ast.unparse(name)] for name in body.bases]:  # an open record forgets them
        found |= _docs(base) if isinstance(base, type) else {}
    for field, doc in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(doc.value).split())
    return found


def write(folder: Path) -> None:
    """Write both files into the folder."""
    schema = json_schema()
    (folder / "schema.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    (folder / "data.d.ts").write_text(declarations(schema), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
