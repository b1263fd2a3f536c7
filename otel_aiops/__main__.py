"""`python -m otel_aiops` is `otel-aiops`."""

from otel_aiops.cli import main

if __name__ == "__main__":
    main()
