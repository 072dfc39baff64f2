"""Metrics as values, and as prometheus-client's families: each daemon has a table of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from clusterd.daemon.counting import Distribution, Labels

Values = Mapping[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """`kind` is Prometheus'; a counter is shown with `_total`, a histogram with `_bucket`, `_sum` and `_count`."""

    kind: str
    meaning: str
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Families:
    """The metrics of a daemon by name, and what makes samples of them."""

    by_name: Mapping[str, Family]

    def described(self) -> list[Metric]:
        """Names alone: a registry needs no values to tell collectors apart."""
        return [Metric(name, family.meaning, family.kind) for name, family in self.by_name.items()]

    def gauge(self, name: str, values: Values | float) -> Metric:
        """By the values of the labels; a number alone for a metric without labels."""
        family = self.by_name[name]
        made = GaugeMetricFamily(name, family.meaning, labels=family.labels)
        for labels, value in (values if isinstance(values, Mapping) else {(): values}).items():
            made.add_metric(labels, value)
        return made

    def counter(self, name: str, values: Values | float) -> Metric:
        """As `gauge`."""
        family = self.by_name[name]
        made = CounterMetricFamily(name, family.meaning, labels=family.labels)
        for labels, value in (values if isinstance(values, Mapping) else {(): values}).items():
            made.add_metric(labels, value)
        return made

    def histogram(self, name: str, observed: Distribution) -> Metric:
        made = HistogramMetricFamily(name, self.by_name[name].meaning)
        made.add_metric([], observed.cumulative(), observed.sum)
        return made
