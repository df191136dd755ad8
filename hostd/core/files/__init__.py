"""Models by their files: deploys, syncs, declared models, and what has changed on the disk."""
