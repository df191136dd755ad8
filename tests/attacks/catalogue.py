"""All attacks by name."""

from attacks import deeds, descriptors, floods, identities, multiparts, shares, unread
from attacks.attack import MIB, Attack

OPEN_FILES = 1024
"""Few, so that a thousand connections are many."""

CONTROL = "neighbour-that-computes"
"""No attack: what it costs others tells how much of the figures is the machine's."""

ATTACKS = {
    CONTROL: Attack("computes, and leaves the host alone", shares.busy, deeds.connect),
    "future-identity": Attack(
        "claims the identities of the next clients",
        identities.claim_future,
        deeds.connect,
        small={"ahead": 40},
        full={"ahead": 120},
    ),
    "unknown-worker-tokens": Attack(
        "connects as workers that do not exist",
        identities.pretend_to_work,
        deeds.load,
        small={"peers": 40},
        full={"peers": 200},
    ),
    "identity-of-another-client": Attack(
        "connects under the identity of a client that is connected",
        identities.share,
        deeds.connect,
        small={"rounds": 40},
        full={"rounds": 400},
    ),
    "ready-twice": Attack("says twice who it is, differently", identities.change, deeds.connect),
    "connections-without-handshake": Attack(
        "holds connections to the clients' socket that say nothing",
        descriptors.hold_connections,
        deeds.load_and_connect,
        small={"count": 1500},
        full={"count": 8000},
        must_be_told=True,
        open_files=OPEN_FILES,
    ),
    "half-open-scrapes": Attack(
        "holds connections to the metrics port with half a request or none",
        descriptors.hold_scrapes,
        deeds.load_and_scrape,
        small={"count": 1500},
        full={"count": 4000},
        must_be_told=True,
        open_files=OPEN_FILES,
    ),
    "batches-of-calls": Attack("calls in batches of 1,024", floods.batches_of_calls, deeds.connect),
    "batches-of-calls-for-nothing": Attack(
        "calls in batches a model that is not there", floods.batches_of_calls_for_nothing, deeds.connect
    ),
    "batches-of-verbs": Attack("asks for the models in batches of 1,024", floods.batches_of_verbs, deeds.connect),
    "batches-of-costly-verbs": Attack(
        "asks for explanations in batches of 1,024", floods.batches_of_costly_verbs, deeds.connect
    ),
    "cancels-over-subscriptions": Attack(
        "cancels what is not there, over very many subscriptions",
        floods.cancels,
        deeds.connect,
        small={"peers": 60, "each": 64, "number": 10_000},
        full={"peers": 60, "each": 64, "number": 20_000},
    ),
    "a-million-parts": Attack(
        "calls with a million parts",
        multiparts.a_million_parts,
        deeds.connect,
        small={"parts": 1_000_000},
        must_be_told=True,
    ),
    "parts-over-the-limit": Attack(
        "asks with twice the parts that a message may have",
        multiparts.long_for_the_host,
        deeds.connect,
        small={"parts": 8200},
        must_be_told=True,
    ),
    "endless-before-hello": Attack(
        "sends parts without end, before its HELLO",
        multiparts.endless,
        deeds.connect,
        small={"hello": False, "most_bytes": 600 * MIB},
        full={"hello": False, "most_bytes": 2500 * MIB},
        must_be_told=True,
    ),
    # One message of a process may have `limits.max_message_bytes`, and is held until it is whole: that limit bounds it.
    "endless-after-hello": Attack(
        "sends parts without end, after its HELLO, where a message may have 32 MiB",
        multiparts.endless,
        deeds.connect,
        settings={"limits": {"max_message_bytes": 32 * MIB}},
        small={"most_bytes": 600 * MIB},
        full={"most_bytes": 2500 * MIB},
        must_be_told=True,
    ),
    "unfinished-messages": Attack(
        "sends 30 MB of a message of 1 GB over each of very many connections",
        multiparts.unfinished,
        deeds.connect,
        small={"peers": 40, "each_bytes": 30 * 10**6},
        full={"peers": 200, "each_bytes": 30 * 10**6},
    ),
    "unread-stream": Attack(
        "opens a stream of 64 KiB items with a window of 2^20, and does not read",
        unread.unread_stream,
        deeds.connect,
        small={"streams": 1},
        full={"streams": 2},
    ),
    "unread-results": Attack(
        "asks for results of 10 MB, and does not read",
        unread.unread_results,
        deeds.connect,
        small={"calls": 100},
        full={"calls": 300},
    ),
    "unread-results-over-many-connections": Attack(
        "asks for 30 MB over each of many connections, and does not read",
        unread.unread_over_many,
        deeds.connect,
        small={"peers": 40, "calls": 3},
        full={"peers": 100, "calls": 3},
    ),
    "stopped-worker": Attack(
        "stops its worker and sends it calls of 8 MB that expire at once",
        shares.stopped_worker,
        deeds.connect,
        small={"most_bytes": 800 * MIB},
        full={"most_bytes": 4000 * MIB},
        must_be_told=True,
    ),
    "slow-reader": Attack(
        "asks for more than is kept for one that does not read, and goes on",
        unread.slow_reader,
        deeds.connect,
        small={"calls": 5000, "size": 20_000},
        full={"calls": 10_000, "size": 20_000},
        must_be_told=True,
        settings={"workers": {"max_in_flight": 100_000}},
    ),
    "waiting-retrieves": Attack(
        "waits 100,000 times for a model that is loading",
        shares.waiting_retrieves,
        deeds.retrieve,
        small={"count": 110_000},
        must_be_told=True,
    ),
    "idle-uploads": Attack(
        "begins uploads and sends nothing",
        shares.idle_uploads,
        deeds.deploy,
        small={"peers": 6, "each": 32},
        must_be_told=True,
    ),
    "big-directory": Attack(
        "has a big directory hashed again and again",
        shares.big_directory,
        deeds.load,
        small={"files": 64, "file_bytes": 60 * MIB},
        full={"files": 130, "file_bytes": 60 * MIB},
    ),
}
