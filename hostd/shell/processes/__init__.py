"""Worker processes: how they come into being, what they print, how they end, and the proof."""
