"""Books that know nothing of models: shares, latencies, deadlines, what belongs to which client."""
