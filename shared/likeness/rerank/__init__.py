"""Reranking: stages, one a file, that put neighbours into their final order (`profiles.STAGES`)."""
