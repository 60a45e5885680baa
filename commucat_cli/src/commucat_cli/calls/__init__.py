"""Calls of the client: what is agreed on, what is heard and said, and how well that goes.

``signalling.py``, ``party_keys.py``, ``playout.py`` and ``quality.py`` do no input or output; ``caller.py``
and ``conversation.py`` move frames and samples between them and a session.
"""
