"""The devices of a benchmark: senders, receivers, and those that only come and go."""
