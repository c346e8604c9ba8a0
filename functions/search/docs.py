"""GET /docs: the OpenAPI document as a page for people. Plain HTML, nothing fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
td { overflow-wrap: anywhere } table { margin-top: 1rem }
th { white-space: nowrap } td:first-child { min-width: 7rem }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #d8dee4; border-radius: 6px }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117 }
  td, th { border-color: #30363d } a { color: #79b8ff } }
"""


_INTRO = """
<p>The same as <a href="openapi.json">OpenAPI</a>. A key, where the service asks for one, goes into
the header <code>x-api-key</code>. An error is problem+json (RFC 9457): its <code>type</code> is a
stable name such as <code>urn:likeness:problem:image-too-large</code>, its <code>detail</code> says
what was wrong.</p>
<pre>curl -H 'content-type: image/jpeg' --data-binary @photo.jpg '…/v1/search?limit=5'
curl -F image=@photo.jpg -F limit=5 …/v1/search
curl --json '{"key": "products/mug.jpg", "limit": 5}' …/v1/search</pre>
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
        f"<p>{escape(document['info']['description'])}</p>{_INTRO}{''.join(parts)}"
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    head = (
        f"<h2 id={operation['operationId']}><code class=method>{method.upper()}</code>"
        f"<code>{escape(path)}</code></h2><p>{_prose(operation['summary'])}</p>"
    )
    places = [
        (f"In the {place}", [p for p in operation["parameters"] if p["in"] == place])
        for place in ("path", "query")
    ]
    tables = [_table(title, map(_parameter, found)) for title, found in places if found]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        schema = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        fields = [
            (name, _flat(field), name in schema.get("required", []))
            for name, field in schema["properties"].items()
        ]
        tables.append(_table("In the JSON body", fields))
    answers = "".join(
        _answer(status, response, schemas) for status, response in operation["responses"].items()
    )
    return f"{head}{''.join(tables)}<table><tr><th>Answer<th>{answers}</table>"


def _parameter(parameter: dict[str, Any]) -> tuple[str, dict[str, Any], bool]:
    schema = parameter.get("schema") or {"type": "JSON"}
    facts = {"description": parameter.get("description", ""), **_flat(schema)}
    return parameter["name"], facts, parameter["required"]


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """“This or null” as this: no field needs to be told that it may be left out."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    return {**kinds[0], **schema} if kinds else schema


def _table(title: str, fields: Iterable[tuple[str, dict[str, Any], bool]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(schema, required))}"
        f"<td>{_prose(schema.get('description', ''))}"
        for name, schema, required in fields
    )
    return f"<table><tr><th>{title}<th><th>{rows}</table>"


def _kind(schema: dict[str, Any], required: bool) -> str:
    """Type, bounds, default: “integer 1 … 100, default 10”."""
    facts = [str(schema.get("type", "one of " + ", ".join(schema.get("enum", []))))]
    if "minimum" in schema:
        facts[0] += f" {schema['minimum']} … {schema['maximum']}"
    if required:
        facts.append("required")
    elif schema.get("default") not in (None, {}):
        facts.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(facts)


def _answer(status: str, response: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = response["content"].get("application/json", {}).get("schema")
    names = schemas[schema["$ref"].rpartition("/")[2]]["properties"] if schema else []
    fields = f" <code>{escape(', '.join(names))}</code>" if names else ""
    return f"<tr><td><code>{status}</code><td>{_prose(response['description'])}{fields}"


def _prose(text: str) -> str:
    """Escaped, with `code` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
