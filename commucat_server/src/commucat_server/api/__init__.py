"""The REST interface: a Litestar application behind our own listener."""
