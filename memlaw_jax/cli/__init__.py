"""The `memlaw` command."""
