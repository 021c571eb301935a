"""The workflow on a real Slurm of one node: `make slurm-test`.

The fixture runs a small experiment through `--profile slurm` while jobs are cancelled and killed,
and the node drained; the tests then read Slurm's own records and compare with a local run.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from artefacts import artefacts

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
PATIENCE = 900.0  # seconds for one thing to happen


def say(*command):
    """What a command of Slurm's says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def wait_for(what, condition, process=None):
    """The condition's value, once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        assert process is None or process.poll() is None, f"snakemake ended before {what}"
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen; squeue: {say('squeue')}")


def experiment():
    """The tiny experiment with one split, fewer codecs, and trainings long enough to be killed.

    Two jobs share what is tokenised, and two what is extracted.
    """
    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text()) | {"experiment": "small"}
    params["models"][0]["splits"] = [1]
    codecs = {codec["name"]: codec for codec in params["codecs"]}
    codecs["hyperprior"] |= {"lambdas": [1.0e-3, 1.0e-2]}
    codecs["hyperprior"]["set"] = codecs["hyperprior"]["set"] | {"steps": 500}
    params["codecs"] = [codecs["hyperprior"], codecs["back"]]
    params["baselines"] = {"codecs": ["int4"]}
    params["text"] |= {"shards": 2}
    params["activations"] = params.get("activations", {}) | {"shards": 2}
    return params


def small_cluster():
    """The committed file, for a small node; two processes learn the model."""
    cluster = yaml.safe_load((ROOT / "workflow/profiles/slurm/cluster.yaml").read_text())
    for phase in cluster["phases"].values():
        phase |= {"cpus": 1, "memory": 1000, "minutes": 10}
    cluster["phases"]["train"]["memory"] = 1500
    cluster["phases"]["latency"]["cpus"] = 2
    cluster["phases"]["tune"] |= {"gpus": 0, "processes": 2, "cpus": 2}
    return cluster | {"fetch_here": False, "before_job": 'echo "${SLURM_JOB_ID:-none}" >> jobs.txt'}


def start(directory, *arguments):
    """snakemake in a directory that has the experiment's files and the profile."""
    directory.mkdir()
    (directory / "data").mkdir()
    (directory / "data/tiny").symlink_to(ROOT / "data/tiny")
    (directory / "slurm").symlink_to(ROOT / "slurm")
    (directory / "small.yaml").write_text(yaml.safe_dump(experiment()))
    (directory / "cluster.yaml").write_text(yaml.safe_dump(small_cluster()))
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
    environment = os.environ | {"SPLITCODEC_CLUSTER": "cluster.yaml", "TMPDIR": "/tmp"}
    with (directory / "run.log").open("w") as log:
        return subprocess.Popen(
            [*command, *arguments], cwd=directory, env=environment, stdout=log, stderr=log
        )


def training(directory, variant):
    """Process, Slurm job and task of an array of a training that has begun to learn, or None."""
    place = f"hyperprior/{variant}"
    if not any(directory.glob(f"results/small/codecs/**/{place}/training.jsonl")):
        return None
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            inside = (entry / "cwd").resolve() == directory.resolve()
            variables = (entry / "environ").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if inside and words[1:2] and words[1].endswith("/splitcodec") and words[2] == "train":
            values = dict(item.split("=", 1) for item in variables if "=" in item)
            if any(word.endswith(place) for word in words):
                task = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(values)
                return int(entry.name), values["SLURM_JOB_ID"], task
    return None


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    state = tmp_path_factory.mktemp("slurm")
    for parent in list(state.parents)[:2]:
        parent.chmod(0o755)  # munged, which is not root, must come to its socket
    subprocess.run([CLUSTER, "up", state], check=True, timeout=180)
    yield state
    subprocess.run([CLUSTER, "down", state], check=True, timeout=60)


@pytest.fixture(scope="session")
def run(slurm, tmp_path_factory):
    """A directory in which the experiment was run on Slurm under attack, and what was done."""
    directory = tmp_path_factory.mktemp("run") / "cluster"
    brisk = ["--slurm-arrays-init-seconds-before-status-checks", "1", "--latency-wait", "20"]
    brisk += ["--seconds-between-status-checks", "2"]
    process = start(directory, "--cores", "all", "--profile", "slurm", *brisk)
    try:
        first = wait_for("training", lambda: training(directory, "lambda0.001-seed0"), process)
        say("scancel", first[2])
        second = wait_for("training", lambda: training(directory, "lambda0.01-seed0"), process)
        os.kill(second[0], signal.SIGKILL)
        node = say("hostname").strip()
        say("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        wait_for("draining", lambda: "drain" in say("sinfo", "--noheader", "--format=%T"))
        wait_for("the last job", lambda: not say("squeue", "--noheader", "--states=R"), process)
        waiting = wait_for("a waiting job", lambda: say("squeue", "--noheader", "--states=PD"))
        pending = say("squeue", "--noheader", "--states=PD", "--array", "--format=%i").split()
        say("scancel", *pending)  # of which squeue says nothing that the plugin understands
        say("scontrol", "update", f"nodename={node}", "state=resume")
        assert process.wait(timeout=900) == 0, (directory / "run.log").read_text()[-3000:]
    finally:
        process.kill()
    return directory, {"cancelled": first[1], "killed": second[1], "waiting": waiting}


@pytest.fixture(scope="session")
def jobs(run):
    """Every job by id, as Slurm remembers it."""
    records = say("scontrol", "show", "job", "--oneliner").splitlines()
    parsed = [dict(re.findall(r"(\S+?)=(\S*)", record)) for record in records]
    return {job["JobId"]: job for job in parsed if job.get("WorkDir") == str(run[0])}


def of_rule(jobs, rule):
    found = [job for job in jobs.values() if job["Comment"].startswith(f"rule_{rule}")]
    assert found, f"no job of {rule} in {sorted(job['Comment'] for job in jobs.values())}"
    return found


def test_every_rule_was_a_job(jobs):
    ran = {job["Comment"].removeprefix("rule_").split("_wildcards")[0] for job in jobs.values()}
    assert ran == {
        *("fetch_model", "fetch_text", "tokenise", "baselines"),
        *("tokenise_shard", "join_tokens", "join_activations"),
        *("extract_train_random-llama", "extract_held_out_random-llama"),
        *("sensitivity_random-llama", "references", "train_codec", "tune_model"),
        *("encode_hyperprior", "encode_back", "encode_baselines"),
        *("evaluate", "evaluate_baselines", "evaluate_hyperprior", "examples_random-llama"),
        *("bounds", "latency", "collect", "cards", "figures", "report_page", "track"),
    }


def test_jobs_had_what_their_phase_asks_for(jobs):
    for rule, partition, gpus, cpus in (
        ("train_codec", "gpu", "gres:gpu:1", 1),
        ("extract", "gpu", "gres:gpu:1", 1),
        ("tune_model", "cpu", None, 2),
        ("bounds", "cpu", None, 1),
    ):
        for job in of_rule(jobs, rule):
            assert job["Partition"] == partition
            assert job.get("TresPerJob") == gpus
            assert int(job["CPUs/Task"]) == cpus
            assert job["TimeLimit"] in ("00:10:00", "00:20:00", "00:30:00")


def test_the_grid_of_lambda_was_one_job_array(jobs):
    first = [job for job in of_rule(jobs, "train_codec") if job["MinMemoryNode"] == "1500M"]
    assert len({job["ArrayJobId"] for job in first}) == 1
    assert {job["ArrayTaskId"] for job in first} == {"1", "2"}


def test_the_latency_job_was_alone(jobs):
    (job,) = of_rule(jobs, "latency")
    assert job["OverSubscribe"] == "NO"
    assert job["NumCPUs"] == "8"


def test_lost_jobs_ended_as_slurm_says_and_came_again_with_more_memory(run, jobs):
    done = run[1]
    assert jobs[done["cancelled"]]["JobState"] == "CANCELLED"
    assert jobs[done["killed"]]["JobState"] == "FAILED"
    trainings = of_rule(jobs, "train_codec")
    again = [job for job in trainings if job["MinMemoryNode"] in ("3000M", "6000M")]
    # Of those that waited while the node was drained some were cancelled, and came once more.
    assert {job["JobState"] for job in again} <= {"COMPLETED", "CANCELLED"}
    assert [job["JobState"] for job in again].count("COMPLETED") == 2


def test_jobs_waited_while_the_node_was_drained(run):
    assert run[1]["waiting"]


def test_the_completion_log_has_every_job(slurm, jobs):
    logged = re.findall(r"JobId=(\d+) .*JobState=(\S+)", (slurm / "completed.txt").read_text())
    states = {number: state for number, state in logged if number in jobs}
    assert states == {number: job["JobState"] for number, job in jobs.items()}


ALL_REDUCE = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1.0)
dist.all_reduce(total)
said = f"sum {int(total)} of {dist.get_world_size()} in job {os.environ['SLURM_JOB_ID']}\\n"
os.write(1, said.encode())  # whole, though both processes write to one file
"""


def test_a_launched_job_is_several_processes_that_meet(run):
    (run[0] / "meet.py").write_text(ALL_REDUCE)
    wrapped = "splitcodec launch 1 2 python meet.py"
    asked = ["sbatch", "--parsable", "--wait", "--ntasks=1", "--cpus-per-task=2", "--mem=2000"]
    done = subprocess.run(
        [*asked, "--output=meet.log", "--wrap", wrapped],
        cwd=run[0],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = (run[0] / "meet.log").read_text()
    assert said.count(f"sum 3 of 2 in job {done.stdout.strip()}") == 2, said


def test_the_line_before_each_job_was_run(run, jobs):
    assert set((run[0] / "jobs.txt").read_text().split()) - {"none"} <= set(jobs)


def test_results_are_those_of_a_local_run(run, tmp_path):
    process = start(tmp_path / "local", "--cores", "2")
    assert process.wait(timeout=600) == 0, (tmp_path / "local/run.log").read_text()[-3000:]
    expected = artefacts(tmp_path / "local/results/small")
    assert len(expected) > 40
    assert artefacts(run[0] / "results/small") == expected
