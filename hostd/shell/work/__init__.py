"""How effects are carried out: the seam of what does, work in threads, and what failed, made harmless."""
