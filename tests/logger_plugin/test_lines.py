"""What a run prints, from real runs of a small workflow."""

import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_splitcodec as plugin

SNAKEFILE = """
rule all:
    input: expand("out/{split}-{codec}.txt", split=[1, 2], codec=["klt", "int4"])

rule fetch:
    output: "out/model.txt"
    log: "logs/fetch.log"
    shell: "touch {output} > {log} 2>&1"

rule train:
    input: "out/model.txt"
    output: "out/{split}-{codec}.txt"
    log: "logs/{split}-{codec}.log"
    shell: "(for i in $(seq 30); do echo step $i; done; {config[command]} {output}) > {log} 2>&1"
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def run(*arguments, command="touch", terminal=False):
        line = [sys.executable, "-m", "snakemake", "--logger", "splitcodec", "--cores", "2"]
        line += [*arguments, "--config", f"command={command}"]
        if not terminal:
            return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            line, cwd=tmp_path, stderr=theirs, env={**os.environ, "TERM": "xterm"}
        )
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 1 << 16):
                shown += data
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        return subprocess.CompletedProcess(line, process.wait(), "", shown.decode())

    return run


def test_one_line_a_job_with_phase_counts_and_time_left(run):
    done = run()
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "6 jobs: fetch 1, train 4, all 1"
    assert "1/6  fetch 1/1" in lines[1]
    assert "2/6  train 1/4" in lines[2]
    assert "split=" in lines[2]
    assert all("elapsed, about" in line and "left" in line for line in lines[1:7])
    assert lines[7].startswith("6 jobs in ")
    assert [line.split()[:2] for line in lines[8:]] == [
        ["phase", "jobs"],
        ["fetch", "1"],
        ["train", "4"],
        ["all", "1"],
    ]

    again = run()
    assert again.stderr.strip().startswith("Nothing to be done")
    assert len(again.stderr.strip().splitlines()) == 1


def test_a_failure_shows_the_command_and_the_end_of_the_log(run):
    done = run(command="ls no-such-file &&")
    assert done.returncode != 0
    assert "FAILED    train" in done.stderr
    assert "ls no-such-file && out/" in done.stderr
    assert "  step 30\n" in done.stderr
    assert "No such file or directory" in done.stderr
    assert "step 10" not in done.stderr
    assert "Traceback" not in done.stderr
    rerun = [line for line in done.stderr.splitlines() if line.startswith("rerun it:")]
    assert rerun
    target = rerun[0].split()[-1]
    assert rerun[0].split("rerun it: ")[1] == (
        "snakemake --cores all --config 'command=ls no-such-file &&' -- " + target
    )


def test_the_command_of_a_failed_job_runs_it_alone(run, tmp_path):
    failed = run(command="ls no-such-file &&")
    target = next(line for line in failed.stderr.splitlines() if line.startswith("rerun it:"))
    again = run(target.split()[-1])
    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / "out").glob("*-*")] == [target.split("/")[-1]]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ("--cores 2 --configfile a.yaml --rerun-incomplete all", "--configfile a.yaml"),
        ("--profile slurm all --configfile=a.yaml codecs", "--profile slurm --configfile=a.yaml"),
        ("-s Snakefile -d there x --config a=1 b=2 -n", "-s Snakefile -d there --config a=1 b=2"),
        ("-C a=1 b=2 --workflow-profile p -n", "-C a=1 b=2 --workflow-profile p"),
        ("--dry-run", ""),
    ],
)
def test_a_rerun_keeps_what_names_the_workflow(arguments, kept):
    command = plugin.rerun(arguments.split(), "out/1.txt").split()
    assert command == ["snakemake", "--cores", "all", *kept.split(), "--", "out/1.txt"]


def test_a_dry_run_lists_jobs_and_runs_none(run, tmp_path):
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 jobs: fetch 1, train 4, all 1") == 1
    assert done.stdout.count("\ntrain  ") == 4
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_workflow_is_shown(run):
    done = run("no-such-target")
    assert done.returncode != 0
    assert "No rule to produce no-such-target" in done.stderr


def test_on_a_terminal_the_running_jobs_stand_below_the_lines(run):
    done = run(command="sleep 0.7; touch", terminal=True)
    assert done.returncode == 0, done.stderr
    assert "6/6 jobs" in done.stderr
    assert "\x1b[2K" in done.stderr, "the display never moved"
    assert "1/6  fetch 1/1" in done.stderr


def test_a_plain_log_says_now_and_then_what_is_running(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "_SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.1)
    handler = plugin.LogHandler(SimpleNamespace(stdout=False, nocolor=False, dryrun=False), None)
    record = logging.makeLogRecord
    handler.emit(record({"event": LogEvent.RUN_INFO, "stats": {"train": 2, "total": 2}}))
    (tmp_path / "train.log").write_text("warming up\nfit: 3/10, 2/s, 4 s left\n")
    job = {"event": LogEvent.JOB_INFO, "rule_name": "train", "jobid": 1, "wildcards": {}}
    handler.emit(record(job | {"log": ["train.log"]}))
    time.sleep(1.3)
    handler.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 jobs: train 2"
    assert "0/2 jobs done" in lines[1]
    assert "jobs/min" in lines[1]
    assert lines[2].split()[0] == "train"
    assert lines[2].endswith("fit: 3/10, 2/s, 4 s left")


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What the plugin prints of some events."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text("error: lambda is missing\n" + 40 * "banner\n")

    def said(*events):
        settings = SimpleNamespace(stdout=False, nocolor=False, dryrun=False)
        handler = plugin.LogHandler(settings, None)
        for event in events:
            handler.emit(logging.makeLogRecord(event))
        handler.close()
        return capsys.readouterr().err

    return said


def failed(number, **more):
    return {"rule_name": f"rule{number}", "jobid": number, "log": [], "output": []} | more


def test_it_is_said_why_a_cluster_s_job_failed(said):
    lost = failed(1, rule_msg="SLURM status is: 'TIMEOUT'", log=["train.log", None])
    text = said({"event": LogEvent.JOB_ERROR} | lost)
    assert "because:  SLURM status is: 'TIMEOUT'" in text
    assert text.count("error: lambda is missing") == 1, "though much was written after it"
    assert text.count("which ends in") == 1


def test_jobs_of_a_group_are_named_once(said):
    jobs = [failed(1), failed(2)]
    group = {"event": LogEvent.GROUP_ERROR, "job_error_info": jobs, "aux_logs": ["train.log"]}
    again = [{"event": LogEvent.JOB_ERROR} | job for job in jobs]
    text = said(group, *again)
    assert [text.count(f"FAILED    rule{n}") for n in (1, 2)] == [1, 1]
    assert "error: lambda is missing" in text
    assert said(group, *again, again[0]).count("FAILED    rule1") == 2, "a retry may fail alone"
