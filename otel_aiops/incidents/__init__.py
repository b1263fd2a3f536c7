"""From anomalies of all signals to incidents with ranked causes, and predictions of some."""
