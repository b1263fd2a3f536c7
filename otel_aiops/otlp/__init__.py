"""otlp: the wire; bytes to columns and back."""
