"""Evaluation: confusion matrix, inference and the run over a split."""
