"""The configuration of a host: its settings, where they come from, and what they mean."""
