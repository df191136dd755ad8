"""The host's verbs over HTTP: what `hostd.AsyncClient` can do, as JSON or msgpack, with a description of itself.

One table (`routes`) says what there is. Routing, the checks of arguments, the OpenAPI document and the page for people
are made from it. Does not cover who may ask: every request gets through `dispatch.dispatch`, where that can be checked.

Needs the extra `http`.
"""

from hostd.fronts.verbs.app import verbs_app

__all__ = ["verbs_app"]
