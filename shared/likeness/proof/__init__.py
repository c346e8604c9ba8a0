"""Proof: what two images have in common, and the verdict on how close they are."""
