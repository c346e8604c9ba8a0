"""A linear adapter: a map on a bundle's vectors that is learned from labels, pairs or feedback."""
