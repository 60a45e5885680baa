"""Who may be whom: tokens, certificates, and the admission of devices."""
