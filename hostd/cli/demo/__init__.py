"""`demo`: the main job on real input, with every claim checked."""

from __future__ import annotations

import importlib.util
import os

import click

from hostd.cli.output import print_json
from hostd.cli.session import HostCommand, Session, json_option
from hostd_workers.wire.errors import FailedPreconditionError

_LIBRARIES = ("numpy", "sklearn", "joblib")


@click.command(cls=HostCommand)
@json_option
@click.pass_obj
@click.pass_context
def demo(ctx: click.Context, session: Session) -> None:
    """Host real models on real data in a private host, and check every claim.

    Trains classifiers of scanned digits, hosts them beside a Python model that holds 320 MiB, compares their accuracy
    with the same files in this process, streams from a generator, shows measured sizes, and unloads all. Exit code 1 if
    any claim does not hold. Nothing is left behind.
    """
    _require_libraries()
    # Builds of onnxruntime since 2026 report to their maker from the moment of import, and leave a session file in the
    # temporary directory (Privacy.md in its package). A demo does neither; its workers inherit this.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from hostd.cli.demo.story import Narrator, tell  # noqa: PLC0415 - it needs the libraries

    if session.json:
        story = tell(Narrator())
        print_json(story.to_dict())
    else:
        from hostd.cli.demo.show import Spoken  # noqa: PLC0415 - as above

        narrator = Spoken()
        story = tell(narrator)
        narrator.verdict(story)
    if story.problems:
        ctx.exit(1)


def _require_libraries() -> None:
    from hostd_workers.wire.installing import install_extras  # noqa: PLC0415 - where something is missing only

    if missing := [library for library in _LIBRARIES if importlib.util.find_spec(library) is None]:
        raise FailedPreconditionError(
            f"the demo trains real models and needs {', '.join(missing)}; install them with: {install_extras('demo')}",
            details={"missing": missing, "extra": "demo"},
        )
