"""Retrieval quality: datasets, edited queries, metrics, reports, calibration."""
