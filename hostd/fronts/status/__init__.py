"""The status page of a host: what its models do, and the controls for them, for people with a browser.

The page is files in `assets`, served as they are: no build step, no framework, nothing from the network. All its data
come from the verbs (`hostd.fronts.verbs`), so it can do what a token allows and nothing else. Does not cover those.
"""

from hostd.fronts.status.app import status_app

__all__ = ["status_app"]
