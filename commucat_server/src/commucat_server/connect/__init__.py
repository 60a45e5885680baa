"""The driver of one `/connect` stream, in binary mode."""
