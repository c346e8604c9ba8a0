"""GET /docs: the OpenAPI document as a page for people. Plain HTML, nothing fetched."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff }
h2 { margin-top: 2.5rem; font-size: 1.1rem } code, pre { font-family: ui-monospace, monospace }
.method { background: #0b57d0; color: #fff; border-radius: 4px; padding: .15rem .5rem;
          margin-right: .5rem; font-size: .85rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
        border-bottom: 1px solid #d8dee4; padding: .3rem .6rem .3rem 0 }
td:first-child { white-space: nowrap }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117 }
  td, th { border-color: #30363d } a { color: #79b8ff } }
"""


def page(document: dict[str, Any]) -> str:
    schemas = document["components"]["schemas"]
    parts = [
        _operation(method, path, operation, schemas)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    title = escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title} API</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title} API</h1>"
        f"<p>{escape(document['info']['description'])} "
        'The same as <a href="openapi.json">OpenAPI</a>, for tools. A key, where the service asks '
        "for one, goes into the header <code>x-api-key</code>.</p>" + "".join(parts)
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    head = (
        f"<h2 id={operation['operationId']}><code class=method>{method.upper()}</code>"
        f"<code>{escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
    )
    fields = [(p["name"], p.get("schema", {})) for p in operation["parameters"]]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        fields = list(_properties(body["schema"], schemas))
    answers = "".join(
        _row(status, response["description"], response, schemas)
        for status, response in operation["responses"].items()
    )
    return f"{head}{_table('Field', fields)}<table><tr><th>Answer<th>{answers}</table>"


def _table(name: str, fields: list[tuple[str, dict[str, Any]]]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code><td>{escape(_text(schema))}"
        for field, schema in fields
    )
    return f"<table><tr><th>{name}<th>{rows}</table>"


def _row(status: str, description: str, response: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = response["content"].get("application/json", {}).get("schema")
    names = ", ".join(name for name, _ in _properties(schema, schemas)) if schema else ""
    return f"<tr><td><code>{status}</code><td>{escape(description)} <code>{escape(names)}</code>"


def _properties(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    return schemas[schema["$ref"].rpartition("/")[2]]["properties"].items()


def _text(schema: dict[str, str]) -> str:
    default = f" Default {schema['default']}." if schema.get("default") is not None else ""
    return schema.get("description", "") + default
