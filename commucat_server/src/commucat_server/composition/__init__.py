"""What a server is made of: its services, and what each interface is given of them."""
