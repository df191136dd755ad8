"""What can be asked of the models directory: files in, files out, what has changed in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.fronts.verbs.models import record_of

if TYPE_CHECKING:
    import hostd
    from hostd.fronts.verbs.route import Asked


async def deploy_model(asked: Asked) -> hostd.ModelInfo:
    """Give the files of a request to the host, and return the record of their model."""
    assert asked.files is not None, "its body is files"  # noqa: S101 - as the table says
    given = asked.some("wait", "replace", "keep", "retries", "finder", "initializer", "options", "labels", "timeout_s")
    given |= asked.some("loader")
    return await record_of(asked, await asked.client.deploy_model(asked["id"], asked.files, asked["type"], **given))


async def undeploy_model(asked: Asked) -> hostd.UnloadReport:
    """Unload a model and remove its files."""
    return await asked.client.undeploy_model(asked["id"], timeout_s=asked["timeout_s"])


async def sync_local_models(asked: Asked) -> hostd.SyncReport:
    """Load what is new in the models directory, and unload what is gone from it."""
    return await asked.client.sync_local_models(**asked.some("wait", "load", "timeout_s"))
