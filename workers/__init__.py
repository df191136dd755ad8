"""Worker processes. Empty on purpose: importing a part of this package must cost that part alone."""
