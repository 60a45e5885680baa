"""The CommuCat server: routes end-to-end encrypted messages between devices."""
