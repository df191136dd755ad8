"""Files of models on their way in and out: all or nothing, at every kill point."""
