"""Slow, obvious twins of the fast kernels: what the fast ones are tested against."""
