"""Programs to start from; each runs as it stands, and the tests run it."""
