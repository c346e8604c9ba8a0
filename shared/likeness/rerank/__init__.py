"""Rerank stages, one a file: pure functions over arrays, vectorised over the candidates."""
