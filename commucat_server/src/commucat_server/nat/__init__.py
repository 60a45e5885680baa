"""What devices need to find a path to each other: a STUN responder, and credentials for it and for TURN."""
