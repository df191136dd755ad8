"""The supervisor's thin outside: sockets, processes, samples and timers, turned into events and out of effects."""
