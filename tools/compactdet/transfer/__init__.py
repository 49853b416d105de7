"""The transfer study: classification accuracy against detection AP."""
