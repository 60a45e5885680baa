"""Percentiles and medians by their definitions."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench_builders import percentiles_of
from commucat_cli.bench.percentiles import PERCENTILES, latency_figures, median, percentile

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)
percents = st.sampled_from([0.0, 50.0, 90.0, 99.0, 99.9, 100.0])


@given(values, percents)
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    found: list[float], percent: float
) -> None:
    ordered = sorted(found)
    answer = percentile(ordered, percent)
    needed = percent * len(ordered) / 100 - 1e-6
    assert answer in ordered
    assert sum(value <= answer for value in ordered) >= needed
    smaller = [value for value in ordered if value < answer]
    assert not smaller or sum(value <= smaller[-1] for value in ordered) < needed


@given(values)
def test_percentiles_grow_up_to_the_maximum(found: list[float]) -> None:
    figures = latency_figures("x", found)
    ordered = [figures[f"x_{name}"] for name in (*PERCENTILES, "max")]
    assert None not in ordered
    assert ordered == sorted(ordered, key=lambda value: value or 0.0)
    assert figures["x_max"] == round(max(found) * 1e6, 1)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 500), (90, 900), (99, 990), (99.9, 999), (100, 1000)]
)
def test_of_a_thousand_values_the_ranks_are_exact(percent: float, expected: int) -> None:
    assert percentile(range(1, 1001), percent) == expected


def test_one_value_is_every_percentile() -> None:
    assert latency_figures("wait_ms", [0.25], unit=1e3) == dict.fromkeys(percentiles_of("wait_ms"), 250.0)


def test_nothing_measured_is_null() -> None:
    assert latency_figures("wait_us", []) == dict.fromkeys(percentiles_of("wait_us"))


@given(values)
def test_the_median_is_the_one_of_the_standard_library(found: list[float]) -> None:
    assert median(found) == pytest.approx(statistics.median(found))
