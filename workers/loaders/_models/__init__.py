"""Models as the built-in loaders return them, beside their loaders."""
