"""The worker's end of the direct lane: calls of clients on the same machine, without the host in between."""
