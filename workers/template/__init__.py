"""Templates: processes that have imported libraries, and nothing else, and fork workers."""
