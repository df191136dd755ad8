"""The lane on the wire: messages over a UNIX socket, memory that its two ends share, and the page of its figures."""
