"""Likeness: keep an index of images equal to a bucket, and search it by image."""
