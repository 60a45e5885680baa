"""Settings that all tests share."""

from hypothesis import settings

# No time limit per example: the machines that run this are small and shared.
settings.register_profile("commucat", deadline=None)
settings.load_profile("commucat")
