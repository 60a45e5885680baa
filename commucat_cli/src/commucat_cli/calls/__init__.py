"""Calls of the client: what is agreed on, what is said and heard, and how well that goes.

``signalling.py``, ``party_keys.py``, ``quality.py`` and ``likeness.py`` do no input or output; ``line.py``,
``dialing.py`` and ``answering.py`` lead a call over a session, ``conversation.py`` moves its sound.
"""
