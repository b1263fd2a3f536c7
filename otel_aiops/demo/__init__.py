"""`make demo`: a simulated shop with faults, watched live by a real service through real OTLP."""
