"""Checks of this implementation against the CCP-1 test vectors, for the command line and the tests alike."""
