"""Objects into the index: uploads, backfill, reconciliation."""
