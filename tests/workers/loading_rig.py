"""What tests of loaders share."""

import pytest

from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError


def over_the_wire(value):
    return decode(*encode(value))


def refused(says, call, *args, **kwargs):
    """Expect a refusal that says so, and return it."""
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        call(*args, **kwargs)
    return caught.value


def cut_short(file, content, sizes):
    """Write the beginning of a file in each of these sizes, and give its path each time."""
    for size in sizes:
        file.write_bytes(content[:size])
        yield str(file)
