"""Reranking: the stages that order neighbours, one per file (`profiles.STAGES`)."""
