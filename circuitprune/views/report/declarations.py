"""The records of a JSON Schema as types for the page's JavaScript."""

import json

from circuitprune.files.records import JsonObject


def declarations(schema: JsonObject) -> str:
    """Interfaces of TypeScript in the namespace `Json`, one for each of `$defs`."""
    lines = ["// Written by `python -m circuitprune.views.report.schema`; do not edit.", ""]
    lines += ["declare namespace Json {"]
    for name, record in schema["$defs"].items():
        lines += [f"  /** {record['description']} */", f"  interface {name} {{"]
        for key, part in record["properties"].items():
            mark = "" if key in record["required"] else "?"
            lines += [f"    /** {part['description']} */", f"    {key}{mark}: {_typed(part)};"]
        lines += ["  }"]
    return "\n".join([*lines, "}", ""])


def _typed(part: JsonObject) -> str:
    """One part of a schema as a type."""
    if "$ref" in part:
        return str(part["$ref"].rpartition("/")[2])
    if "anyOf" in part:
        return " | ".join(map(_typed, part["anyOf"]))
    if "enum" in part:
        return " | ".join(map(json.dumps, part["enum"]))
    if "prefixItems" in part:
        return f"[{', '.join(map(_typed, part['prefixItems']))}]"
    if part["type"] == "array":
        return f"Array<{_typed(part['items'])}>"
    if part["type"] == "object":
        return f"Record<string, {_typed(part['additionalProperties'])}>"
    return "number" if part["type"] == "integer" else str(part["type"])
