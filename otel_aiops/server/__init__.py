"""server: sockets in and out; OTLP receiver, exporter, API and pages."""
