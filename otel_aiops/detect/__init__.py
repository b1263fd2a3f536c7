"""detect: what is normal for a series, and how far a point is from it."""
