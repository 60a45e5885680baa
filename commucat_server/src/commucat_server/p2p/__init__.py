"""The relay ``/p2p``: two peers that name the same word meet, and what one says the other hears."""
