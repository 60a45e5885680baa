"""Append-only audit records with a hash chain, and their verifier."""
