"""Model bundles: found, fetched, built, checked and packaged."""
