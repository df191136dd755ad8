"""The page for people: the table of routes as HTML, in one piece, without a script."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from html import escape

import hostd
from hostd.fronts.verbs.arguments import expected
from hostd.fronts.verbs.route import FORM, TAR, Body, Parameter, Route

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font-family: ui-monospace, monospace }
summary { cursor: pointer; padding: .2rem 0 }
summary b { display: inline-block; width: 4.5rem }
section { margin: 0 0 1rem 1.2rem }
table { border-collapse: collapse }
td, th { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8cf } }
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
"""The page may have its own style, and nothing else."""


@lru_cache(maxsize=4)
def page(routes: tuple[Route, ...]) -> str:
    """Return the page of a table."""
    rows = "\n".join(map(_route, routes))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>hostd over HTTP</title><style>{_STYLE}</style></head>
<body>
<h1>hostd {escape(hostd.__version__)} over HTTP</h1>
<p>JSON goes in and comes out, or msgpack: <code>Content-Type</code> and <code>Accept: application/msgpack</code>.
A segment of a path is percent-encoded UTF-8; a slash in a model's id is written <code>%2F</code>.
For programs: <a href="openapi.json">openapi.json</a>.</p>
{rows}
</body>
</html>
"""


def _route(route: Route) -> str:
    path, summary = escape(route.path), escape(route.summary)
    return f"""<details><summary><b>{route.method}</b> <code>{path}</code> {summary}</summary>
<section><p>{escape(route.text)}</p>{_parameters(route)}
<p>Role: {route.role.name.lower()}. Answer: <code>{escape(_name_of(route.answer))}</code> as
{escape(", ".join(route.forms))}.</p></section></details>"""


def _parameters(route: Route) -> str:
    files = f"<p>Body: the files, as {FORM} or {TAR}.</p>" if route.body is Body.FILES else ""
    if not route.parameters:
        return files
    rows = "".join(map(_parameter, route.parameters))
    return f"{files}<table><tr><th>name<th>in<th>type<th>default<th></tr>{rows}</table>"


def _parameter(parameter: Parameter) -> str:
    default = "needed" if parameter.is_needed else "" if parameter.default is None else str(parameter.default).lower()
    cells = (parameter.name, parameter.place.value, expected(parameter), default, parameter.text)
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}</tr>"


def _name_of(kind: object) -> str:
    return kind.__name__ if type(kind) is type else str(kind).replace("hostd.", "").replace("typing.", "")
