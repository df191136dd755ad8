"""What clients ask besides calls: the verbs, the counts, and the pages that machines read."""
