"""`bench`: a load generator for one's own model, and its picture."""
