"""Servers of other domains: who they are, what waits for them, and what comes from them."""
