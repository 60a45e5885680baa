"""Metrics as text of the format 0.0.4, which every Prometheus and whoever imitates it reads.

The writer of prometheus_client appends ``_total`` to the names of all counters. Those of the reference server
are without, and dashboards know them so: here names are written as they are.
"""

import math
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4"
"""The framework adds the charset."""


def write_metrics(metrics: Iterable[Metric]) -> bytes:
    """All samples, each family below its HELP and TYPE lines."""
    lines: list[str] = []
    for metric in metrics:
        name = metric.name
        if metric.type == "counter" and metric.samples:
            # prometheus_client's own collectors name the family without, and its samples with, a suffix.
            name = metric.samples[0].name
        lines.append(f"# HELP {name} {_escaped(metric.documentation)}")
        lines.append(f"# TYPE {name} {metric.type}")
        for sample in metric.samples:
            labels = ",".join(f'{label}="{_quoted(value)}"' for label, value in sample.labels.items())
            shown = f"{{{labels}}}" if labels else ""
            lines.append(f"{sample.name}{shown} {_number(sample.value)}")
    return ("\n".join(lines) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
