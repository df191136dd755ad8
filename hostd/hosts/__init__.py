"""The hosts of this user: how one is started, found, shared and trusted."""
