"""A device's profile directory: private keys, the pinned server, pinned peers, the inbox cursor."""

from commucat_cli.profile.keys import ProfileKeys
from commucat_cli.profile.profile import TLS_CA_NAME, Profile, open_profile, open_profile_for_login
from commucat_cli.profile.state import Account, Cursor, KeptUpload, ProfileState, open_state
from commucat_cli.profile.undecryptable import keep_undecryptable

__all__ = [
    "TLS_CA_NAME",
    "Account",
    "Cursor",
    "KeptUpload",
    "Profile",
    "ProfileKeys",
    "ProfileState",
    "keep_undecryptable",
    "open_profile",
    "open_profile_for_login",
    "open_state",
]
