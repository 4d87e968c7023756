"""The benchmark beside busy processes: what it compares, and its figures."""

from __future__ import annotations

import pytest

from benchmarks.training_busy import measure, process_share, report, thread_share


@pytest.mark.parametrize(
    ("cores", "threads", "load", "by_process", "by_thread"),
    [(2, 2, 0, 1, 1), (2, 2, 2, 1 / 3, 0.5), (4, 2, 2, 2 / 3, 1), (2, 2, 1, 0.5, 2 / 3), (2, 1, 3, 0.5, 0.5)],
)
def test_a_fair_share_divides_the_cores_among_processes_or_threads(
    cores: int, threads: int, load: int, by_process: float, by_thread: float
) -> None:
    assert process_share(cores, threads, load) == pytest.approx(by_process)
    assert thread_share(cores, threads, load) == pytest.approx(by_thread)


def test_figures_are_ratios_of_one_run_with_their_spread() -> None:
    samples = {
        ("bare", 0): [(100.0, 50.0), (120.0, 60.0), (110.0, 55.0)],
        ("ours", 0): [(110.0, 55.0), (120.0, 60.0), (121.0, 66.0)],
        ("bare", 2): [(11.0, 5.5)] * 3,
        ("ours", 2): [(55.0, 44.0)] * 3,
    }
    rows = report(samples, cores=2, threads=2).splitlines()[2:]
    assert "1.10 (1.00-1.10)" in rows[0]
    assert "5.00 (5.00-5.00)" in rows[1] and "1.50 (1.50-1.50)" in rows[1] and "0.30 (0.30-0.30)" in rows[1]
    assert "1.00 (1.00-1.00)" in rows[1]
    assert "0.80 (0.80-0.80)" in rows[1] and "0.10 (0.10-0.10)" in rows[1]


def test_both_sides_are_measured_in_each_round() -> None:
    samples, threads = measure([0], 1, 0.01)
    assert threads >= 1 and set(samples) == {("ours", 0), ("bare", 0)}
    assert all(clock > 0 and cpu > 0 for values in samples.values() for clock, cpu in values)
