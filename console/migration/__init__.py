"""Changing the model without downtime."""
