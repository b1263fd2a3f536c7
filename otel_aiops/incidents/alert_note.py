"""What is written down of an alert when it begins: all that its score can be compared with when it is made again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertNote:
    """The first point of an alert as it was served. `ratio` is the alert score in the thresholds that held then.

    `sequence` is that of the record of the log that brought it, `config` the id of the configuration that held,
    `line` its line in the journal of configurations, `code` the version of otel-aiops.
    """

    sequence: int
    fingerprint: str  # 16 hexadecimal digits
    series: str  # canonical text
    time_ns: int
    value: float
    score: float
    alert: float
    probability: float
    expected: float
    lower: float
    upper: float
    channel: str
    ratio: float
    threshold: float  # of the objective, in alert scores
    shift: float  # by what verdicts had moved its logarithm
    objective: str
    budget: float  # alerts a week
    counted: bool  # whether it was paid from the budget, as the first of its service
    version: str  # that served it, "" before there were any
    role: str  # champion or canary
    config: str = ""
    line: int = 0
    code: str = ""
    told_ns: int = 0  # by the clock of the machine
