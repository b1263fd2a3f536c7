"""Audit: who changed what, and every score of the past made again from the log."""
