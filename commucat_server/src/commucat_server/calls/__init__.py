"""Which calls there are, who is in them, and when they are over. Signalling only; media is never opened."""
