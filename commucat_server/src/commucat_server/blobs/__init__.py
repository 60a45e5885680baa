"""Files that users bring: avatars, which everybody may see, and attachments, which only clients can read."""
