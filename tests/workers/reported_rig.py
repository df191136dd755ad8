"""What a loaded model tells of its default method."""

from hostd_workers.signatures import described


def known(served):
    """Return what a loaded model tells of its default method: inputs and outputs as tuples, and how they are passed."""
    methods = {name: getattr(served.model, name) for name in served.methods}
    found = described(methods, served.default, {}, served.signatures).get(served.default)
    if found is None:
        return None
    assert found["known_from"] == "reported"
    inputs, outputs = ([tuple(map(_plain, tensor)) for tensor in found[side]] for side in ("inputs", "outputs"))
    return inputs, outputs, found["passing"], found["batch_axis"]


def _plain(value):
    return tuple(value) if isinstance(value, list) else value
