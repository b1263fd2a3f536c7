"""series: which series exist, what their points mean, and where accepted telemetry is kept."""
