"""What the core answers when it is asked, without a change of anything."""
