"""Where the models of a models directory are said to be (C24)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_rig import AT_ONCE, Rig

import hostd

if TYPE_CHECKING:
    from pathlib import Path


def test_c24_models_have_one_path_however_they_were_found_and_the_directory_was_named(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.add("synced")
    rig.add("deployed")
    (rig.path.parent / "elsewhere").mkdir()
    named = rig.path.parent / "elsewhere" / ".." / rig.path.name
    with hostd.Host(models={**AT_ONCE, "dir": named}) as host:
        client = host.client()
        client.sync_local_models(wait=True)
        source = {"model.py": (rig.path / "deployed" / "model.py").read_bytes()}
        client.deploy_model("deployed", source, replace=True)
        paths = {model.id: model.path for model in client.list_models()}
    assert paths == {name: str(rig.path / name) for name in ("synced", "deployed")}
