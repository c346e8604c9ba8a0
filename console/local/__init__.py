"""The whole service on this machine."""
