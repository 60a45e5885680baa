"""Who gets which media of a call: the selective forwarding of one server. No input or output, time is an
argument, and no packet is opened beyond its header.
"""
