"""A small validator of JSON Schema; it shares nothing with what wrote `schema.json`."""

import json
from importlib.resources import files

SCHEMA = json.loads((files("circuitprune.views.report") / "schema.json").read_text())
KINDS = {
    "null": lambda x: x is None,
    "boolean": lambda x: isinstance(x, bool),
    "string": lambda x: isinstance(x, str),
    "integer": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "number": lambda x: isinstance(x, int | float) and not isinstance(x, bool),
    "array": lambda x: isinstance(x, list),
    "object": lambda x: isinstance(x, dict),
}


def fits(value, name):
    """Whether a value is a record of this name; says where not."""
    wrong = list(misfits(value, {"$ref": f"#/$defs/{name}"}, name))
    assert wrong == []
    return True


def misfits(value, schema, at):
    """Places that do not fit."""
    known = {"$ref", "anyOf", "enum", "type", "items", "prefixItems", "properties", "required"}
    assert set(schema) <= known | {"additionalProperties", "description"}, schema
    if "$ref" in schema:
        yield from misfits(value, SCHEMA["$defs"][schema["$ref"].split("/")[-1]], at)
    if "anyOf" in schema and all(list(misfits(value, one, at)) for one in schema["anyOf"]):
        yield f"{at}: none of its kinds"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: not in {schema['enum']}"
    if "type" in schema and not KINDS[schema["type"]](value):
        yield f"{at}: no {schema['type']}"
    elif isinstance(value, list):
        for i, item in enumerate(value):
            part = schema["prefixItems"][i] if "prefixItems" in schema else schema.get("items", {})
            yield from misfits(item, part, f"{at}[{i}]")
    elif isinstance(value, dict) and schema.get("type") == "object":
        yield from (f"{at}: no {key}" for key in schema.get("required", []) if key not in value)
        for key, item in value.items():
            part = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            if part is False:
                yield f"{at}: unknown {key}"
            else:
                yield from misfits(item, part, f"{at}.{key}")
