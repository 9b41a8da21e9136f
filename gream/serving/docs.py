"""The page at /docs: the service's OpenAPI description as plain HTML, made here and needing no internet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "length at least",
    "maxLength": "length at most",
    "minItems": "entries at least",
    "maxItems": "entries at most",
}


def docs_page(openapi: dict[str, Any]) -> str:
    """Render an OpenAPI description; everything taken from it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("docs.html").render(
        info=openapi["info"],
        operations=[
            _operation(method.upper(), path, operation)
            for path, methods in openapi["paths"].items()
            for method, operation in methods.items()
        ],
        schemas=[
            {"name": name, "about": schema.get("description", ""), "rows": _rows(schema)}
            for name, schema in sorted(openapi.get("components", {}).get("schemas", {}).items())
        ],
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {})
    return {
        "method": method,
        "path": path,
        "about": operation.get("description", ""),
        "parameters": [(p["name"], p["in"], _type(p["schema"])) for p in operation.get("parameters", [])],
        "body": _content(body),
        "responses": [
            (code, response.get("description", ""), _content(response))
            for code, response in operation["responses"].items()
        ],
    }


def _content(holder: dict[str, Any]) -> str:
    """Name of the JSON schema that a request or a response carries, or nothing."""
    schema = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return _type(schema) if schema else ""


def _rows(schema: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """One row for every field: name, type with bounds, required or default, description."""
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"default {json.dumps(field.get('default'))}"
        rows.append((name, _type(field), default, field.get("description", "")))
    return rows


def _type(schema: dict[str, Any]) -> str:
    """Spell a JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {_type(schema['items'])}"
    bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind
