"""Valid messages of every kind, and the same with a few things changed."""

import datetime as dt
from datetime import timezone

import msgpack
import numpy as np

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode, encode_call
from hostd_workers.wire.errors import NotFoundError

UTC = timezone.utc

SAMPLES = [
    None,
    {"a": [1, 2.5, "text", b"bytes", None, True], "t": (1, (2, ())), "d": dt.datetime(2024, 1, 1, tzinfo=UTC)},
    [np.arange(6, dtype="<i2").reshape(2, 3), np.arange(2000.0), np.float32(1.5), np.datetime64("2024-01-01", "us")],
    {
        "s": np.zeros(2, [("a", "<f8", (2,)), ("b", [("t", "M8[s]"), ("u", "U3")])]),
        "big": np.zeros((99, 99), order="F"),
    },
    b"x" * 70_000,
    [(((),),), {(1, 2): {b"k": [[]]}}],
    msgpack.Timestamp(1_700_000_000, 1),
]


def samples():
    """Return valid messages of every kind, as bytes that can be changed."""
    messages = [
        msg.pack_map(msg.HELLO, 1, {"versions": [1], "pid": 7}),
        msg.pack_credit(2, 32),
        msg.pack_error(3, NotFoundError("gone", details={"a": np.arange(3000)})),
        wire.pack(msg.VERB, 4, msg.pack_verb("get_model"), encode({"model_id": "m"})[0]),
    ]
    for sample in SAMPLES:
        body, buffers = encode(sample)
        messages.append(wire.pack(msg.CALL, 5, msg.pack_target(msg.Target("m", "predict")), body, buffers, 100))
        body, buffers = encode_call([sample], {"k": sample})
        messages.append(wire.pack(msg.STREAM, 6, msg.pack_target(msg.Target("m", "x", "t", 64)), body, buffers))
    return [[bytes(frame) for frame in frames] for frames in messages]


def mutated(frames, chance):
    """Return a message with a few things changed: bytes, lengths, frames."""
    changed = [bytearray(frame) for frame in frames]
    for _ in range(chance.randint(1, 4)):
        frame = chance.choice(changed) if changed else bytearray()
        # The front holds what is interesting: prefix, header, types and lengths.
        at = min(chance.randrange(len(frame) + 1), chance.randrange(len(frame) + 1), chance.randrange(len(frame) + 1))
        match chance.randrange(7):
            case 0:
                del frame[at:]
            case 1:
                frame[at : at + 1] = bytes([chance.randrange(256)])
            case 2:
                frame[at:at] = chance.randbytes(chance.randint(1, 9))
            case 3:
                del frame[at : at + chance.randint(1, 9)]
            case 4:
                frame[at : at + 1] = chance.choice(
                    (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\3", b"\xd8\1")
                )
            case 5 if changed:
                changed.insert(chance.randrange(len(changed) + 1), bytearray(chance.choice(changed)))
            case _ if changed:
                del changed[chance.randrange(len(changed))]
    return [bytes(frame) for frame in changed]
