"""Traces and logs read for what they are: operations, calls, templates, the service graph, deployments."""
