"""Who gets a message and when: live sessions, inbox delivery, presence."""
