"""The page at /docs: the OpenAPI document for people. It uses no scripts and no other hosts."""

import re
from html import escape
from typing import Any

from serve.problems import KINDS

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c2430;background:#fff}code{background:#eef1f5;padding:.1em .3em;border-radius:4px}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #d8dee6;"
    "padding:.35rem .5rem;text-align:left;vertical-align:top}h2{margin-top:2.2rem}"
    "pre{background:#eef1f5;padding:.8rem;border-radius:6px;overflow:auto}"
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of the page."""
_STREAM = (
    "Send PCM of one channel in binary messages of at most 1 MiB. The endpoint sends a text "
    "message with the answer for each full window; windows are <code>hop_s</code> apart. Query: "
    "<code>sample_rate</code> (Hz), <code>format</code> (<code>s16le</code> or "
    "<code>f32le</code>), <code>hop_s</code> (seconds; at least a twentieth of the window, or the "
    "bundle's own hop if that is smaller), <code>top_k</code>."
)


def page(document: dict[str, Any]) -> str:
    """Return the HTML page of an OpenAPI document."""
    routes = "".join(
        _route(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    problems = "".join(
        f"<tr><td>{kind.status}</td><td><a href='problems/{name}'>{name}</a></td>"
        f"<td>{escape(kind.title)}</td></tr>"
        for name, kind in KINDS.items()
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>audiocnn: the API</title>"
        f"<style>{_STYLE}</style><h1>audiocnn</h1><p>{_text(document['info']['description'])}</p>"
        "<pre>curl --data-binary @dog.wav 'http://HOST:PORT/v1/predict?maps=layers'</pre>"
        "<p>For programs: <a href='openapi.json'>openapi.json</a>.</p>"
        f"{routes}<h2><code>WS /v1/stream</code></h2><p>{_STREAM}</p>"
        f"<h2>Problems</h2><table>{problems}</table></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(map(_parameter, operation.get("parameters", ())))
    head = "<tr><th>option</th><th>values (default)</th><th></th></tr>"
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{_text(operation.get('summary', ''))}.</p>"
        + (f"<table>{head}{rows}</table>" if rows else "")
    )


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    kinds = [schema, *schema.get("anyOf", ())]
    values = next((k["enum"] for k in kinds if "enum" in k), None)
    kind = ", ".join(values) if values else next((k["type"] for k in kinds if "type" in k), "")
    default = schema.get("default")
    if default is not None:
        kind += f" ({str(default).lower() if isinstance(default, bool) else default})"
    text = parameter.get("description") or schema.get("description", "")
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(kind)}</td>"
        f"<td>{_text(text)}</td></tr>"
    )


def _text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
