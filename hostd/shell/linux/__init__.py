"""What the kernel tells and does, one file for each of its interfaces."""
