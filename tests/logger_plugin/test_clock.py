import pytest

from snakemake_logger_plugin_splitcodec.clock import Clock, Job, as_time


class Run:
    """A clock whose time the test moves."""

    def __init__(self, totals, expectations=None):
        self.time, self.ids = 0.0, iter(range(1000))
        self.clock = Clock(expectations or {}, now=lambda: self.time)
        self.clock.begin(totals)

    def jobs(self, rule, seconds, at_once=1):
        ids = [next(self.ids) for _ in range(at_once)]
        for job_id in ids:
            self.clock.start(job_id, Job(rule))
        self.time += seconds
        for job_id in ids:
            self.clock.finish(job_id)


def test_nothing_is_said_before_anything_is_known():
    assert Run({"train": 4}).clock.left() is None


def test_the_rest_takes_as_long_a_job_as_those_done():
    run = Run({"train": 4})
    run.jobs("train", 10)
    assert run.clock.left() == pytest.approx(30)
    run.jobs("train", 20)
    assert run.clock.left() == pytest.approx(2 * 15)


def test_jobs_side_by_side_share_the_time():
    run = Run({"train": 6})
    run.jobs("train", 10, at_once=2)
    assert run.clock.left() == pytest.approx(4 * 10 / 2)


def test_jobs_under_way_count_for_what_they_have_done():
    run = Run({"train": 3})
    run.jobs("train", 10)
    run.clock.start(99, Job("train"))
    run.time += 4
    assert run.clock.left() == pytest.approx(6 + 10)
    run.time += 100
    assert run.clock.left() == pytest.approx((10 + 104) / 2), "the next may take as long"


def test_jobs_that_take_longer_than_in_an_earlier_run_show_what_is_to_come():
    run = Run({"train": 5}, {"train": 10.0})
    run.clock.start(99, Job("train"))
    run.time += 60
    assert run.clock.left() == pytest.approx(4 * 60)


def test_an_earlier_run_tells_about_rules_not_seen_yet_on_a_slower_machine():
    run = Run({"fetch": 1, "train": 2}, {"fetch": 5.0, "train": 60.0})
    assert run.clock.left() == pytest.approx(125)
    run.jobs("fetch", 10)
    assert run.clock.left() == pytest.approx(2 * 60 * 2)


def test_a_rule_nobody_knows_is_taken_to_be_like_the_others():
    run = Run({"fetch": 1, "new": 2}, {"other": 3.0})
    assert run.clock.left() == pytest.approx(9)
    run.jobs("fetch", 4)
    assert run.clock.left() == pytest.approx(8)


def test_a_failed_job_is_still_to_be_done():
    run = Run({"train": 2})
    run.jobs("train", 10)
    run.clock.start(99, Job("train"))
    run.time += 5
    run.clock.drop(99)
    assert run.clock.running() == []
    assert run.clock.left() == pytest.approx(10)


def test_what_is_saved_is_expected_next_time(tmp_path):
    run = Run({"train": 2, "fetch": 1}, {"fetch": 7.0, "train": 1.0})
    run.jobs("train", 10)
    run.jobs("train", 20)
    run.clock.save(tmp_path / "deep" / "durations.json")
    clock = Clock.with_expectations_of(tmp_path / "none.json", tmp_path / "deep/durations.json")
    assert clock.expectations == {"fetch": 7.0, "train": 15.0}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"train": null}'])
def test_a_damaged_record_of_earlier_runs_is_not_minded(tmp_path, content):
    (tmp_path / "durations.json").write_text(content)
    assert Clock.with_expectations_of(tmp_path / "durations.json").expectations == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12, "0:12"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (3661, "1:01:01"),
    ],
)
def test_times_read_as_on_a_watch(seconds, said):
    assert as_time(seconds) == said
