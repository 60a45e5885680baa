"""The commands of commucat-cli, one module each; main.py puts them together."""
