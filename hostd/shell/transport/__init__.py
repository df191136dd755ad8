"""The supervisor's two sockets: ZeroMQ's protocol on UNIX sockets, every connection with limits of its own."""
