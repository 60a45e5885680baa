"""Noise handshakes, device keys, certificates, handshake proof and post-quantum hybrid of CommuCat."""
