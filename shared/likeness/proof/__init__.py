"""Proof: what two images have in common, and how close a verdict calls them."""
