"""GET /docs: the OpenAPI document as plain HTML, without scripts or external resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from .openapi import without_null

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff }
h2 { margin-top: 2.5rem; font-size: 1.1rem } code, pre { font-family: ui-monospace, monospace }
.method { background: #0b57d0; color: #fff; border-radius: 4px; padding: .15rem .5rem;
          margin-right: .5rem; font-size: .85rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
        border-bottom: 1px solid #d8dee4; padding: .3rem .6rem .3rem 0 }
td { overflow-wrap: anywhere } table { margin-top: 1rem }
th, td:first-child { white-space: nowrap } td:first-child { min-width: 7rem }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #d8dee4; border-radius: 6px }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117 }
  td, th { border-color: #30363d } a { color: #79b8ff } }
"""


_INTRO = """
<p>Also available as <a href="openapi.json">OpenAPI</a>. Where the service requires a key, send it
in the header <code>x-api-key</code>. Errors are problem+json (RFC 9457): <code>type</code> is a
stable name such as <code>urn:likeness:problem:image-too-large</code>, and <code>detail</code> says
what was wrong.</p>
<pre>curl -H 'content-type: image/jpeg' --data-binary @photo.jpg '…/v1/search?limit=5'
curl -F image=@photo.jpg -F limit=5 …/v1/search
curl --json '{"key": "products/mug.jpg", "limit": 5}' …/v1/search
curl --json '{"first": {"key": "a.jpg"}, "second": {"key": "b.jpg"}}' …/v1/compare</pre>
"""


def page(document: dict[str, Any]) -> str:
    schemas = document["components"]["schemas"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    bodies = {_name(body) for _, _, operation in operations if (body := _body(operation))}
    sections = (_schema_section(name, schemas[name]) for name in sorted(schemas.keys() - bodies))
    title = escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title} API</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title} API</h1>"
        f"<p>{escape(document['info']['description'])}</p>{_INTRO}"
        f"{''.join(_operation(*each, schemas) for each in operations)}{''.join(sections)}"
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
    if body := _body(operation):
        shown = {parameter["name"] for parameter in operation["parameters"]}
        fields = [field for field in _fields(schemas[_name(body)]) if field[0] not in shown]
        tables.append(_table(f"In the JSON body{', all of these and' if shown else ''}", fields))
    answers = "".join(
        _answer(status, response) for status, response in operation["responses"].items()
    )
    return f"{head}{''.join(tables)}<table><tr><th>Answer<th>{answers}</table>"


def _schema_section(name: str, schema: dict[str, Any]) -> str:
    table = _table("Field", _fields(schema))
    return f"<h2 id={name}>{name}</h2><p>{_prose(schema.get('description', ''))}</p>{table}"


def _body(operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = content.get("application/json", {}).get("schema", {})
    return schema


Field = tuple[str, dict[str, Any], bool]


def _fields(schema: dict[str, Any]) -> Iterator[Field]:
    for name, field in schema["properties"].items():
        yield name, without_null(field), name in schema.get("required", [])


def _parameter(parameter: dict[str, Any]) -> Field:
    as_json = parameter.get("content", {}).get("application/json")
    schema = as_json["schema"] | {"as_json": True} if as_json else parameter["schema"]
    described = {**schema, "description": parameter["description"]}
    return parameter["name"], described, parameter["required"]


def _table(title: str, fields: Iterable[Field]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{_kind(schema, required)}"
        f"<td>{_prose(schema.get('description', ''))}"
        for name, schema, required in fields
    )
    return f"<table><tr><th>{title}<th><th>{rows}</table>"


def _kind(schema: dict[str, Any], required: bool) -> str:
    """Type, bounds, default: “integer 1 … 100, default 10”."""
    facts = [_type(schema)]
    if "maxItems" in schema and "prefixItems" not in schema:
        exact = schema.get("minItems") == schema["maxItems"]
        facts.append(f"{'exactly' if exact else 'at most'} {schema['maxItems']}")
    if schema.get("as_json"):
        facts.append("as JSON")
    if required:
        facts.append("required")
    elif schema.get("default") not in (None, {}, []):
        facts.append(f"default {escape(json.dumps(schema['default'], ensure_ascii=False))}")
    return ", ".join(facts)


def _type(schema: dict[str, Any]) -> str:
    """“list of string”, “list of 4: number 0 … 1”, or a link to a schema."""
    if "enum" in schema:
        return "one of " + ", ".join(escape(str(value)) for value in schema["enum"])
    if "$ref" in schema:
        return f"<a href=#{_name(schema)}>{_name(schema)}</a>"
    if "prefixItems" in schema:
        kinds = dict.fromkeys(map(_type, schema["prefixItems"]))
        return f"list of {len(schema['prefixItems'])}: {', '.join(kinds)}"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    bounds = [str(schema[key]) for key in ("minimum", "maximum") if key in schema]
    return " ".join([schema.get("type", "any"), " … ".join(bounds)]).rstrip()


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _answer(status: str, response: dict[str, Any]) -> str:
    types = "".join(f" {_type(content['schema'])}" for content in response["content"].values())
    return f"<tr><td><code>{status}</code><td>{_prose(response['description'])}{types}"


def _prose(text: str) -> str:
    """Escaped text; text between backticks is marked as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
