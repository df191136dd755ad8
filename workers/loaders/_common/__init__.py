"""What several built-in loaders need."""
