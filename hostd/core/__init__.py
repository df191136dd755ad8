"""Everything that the supervisor decides, without any I/O: events in, effects out, time as an argument."""
