"""What each type of frame asks for: one room per kind, each a few functions from frame to request."""
