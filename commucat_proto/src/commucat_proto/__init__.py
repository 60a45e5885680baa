"""CCP-1 frames, control messages, sealed envelopes and session state machines, without I/O."""
