"""`doctor`: whether this machine can host models."""
