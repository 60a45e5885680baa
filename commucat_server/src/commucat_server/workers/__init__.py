"""Several processes behind one address: a parent that starts and watches them, and what they inherit."""
