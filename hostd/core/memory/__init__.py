"""The memory budget: what is held, what a load needs, which models yield."""
