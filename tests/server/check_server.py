"""MLflow's server on PostgreSQL, killed while eight trainings report to it: `make server-test`."""

import json
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import synthetic
from mlflow import MlflowClient

from splitcodec.files import read_json
from splitcodec.tracking.experiment import sync
from splitcodec.tracking.live import QUEUE, LiveRun

WORKERS, STEPS = 8, 30
MODEL, SPLIT, LAMBDA = "smollm2-135m", 20, 0.001


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(condition, seconds=500.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def database():
    """The address of an empty database of a PostgreSQL started for this."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert programs, "PostgreSQL is needed: apt-get install postgresql"
    # Not below pytest's directory, which only its owner may enter: PostgreSQL refuses to be root.
    state = Path(f"/tmp/splitcodec-postgresql-{os.getpid()}")
    state.mkdir()
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(state, user.pw_uid, user.pw_gid)
    port = free_port()

    def call(program, *arguments):
        command = [programs[-1] / program, *arguments]
        subprocess.run(command, check=True, user=user.pw_uid, group=user.pw_gid, cwd=state)

    call("initdb", "--pgdata", "data", "--username=mlflow", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {state} -c listen_addresses=127.0.0.1"
    call("pg_ctl", "--pgdata=data", "--wait", "--log=log", "-o", options, "start")
    call("createdb", "--host=127.0.0.1", f"--port={port}", "--username=mlflow", "mlflow")
    yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
    call("pg_ctl", "--pgdata=data", "--mode=immediate", "stop")
    shutil.rmtree(state)


class Server:
    """An `mlflow server` that can be killed and started again at the same address."""

    def __init__(self, database, directory):
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.command = ["mlflow", "server", "--backend-store-uri", database, "--port", str(port)]
        self.command += ["--artifacts-destination", str(directory / "artefacts"), "--workers", "1"]
        self.log = (directory / "server.log").open("w")

    def start(self):
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            self.command,
            stdout=self.log,
            stderr=self.log,
            env=environment,
            start_new_session=True,
        )
        wait_for(self.answers)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def shown(client):
    """The runs of the experiment, of which there may be none yet."""
    experiment = client.get_experiment_by_name("results")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def entries(seed):
    return [{"phase": "fit", "step": step, "loss": seed + 1 / (step + 1)} for step in range(STEPS)]


def report(results, uri, seed, back):
    """What a training does: one entry now and then, the last when the server is back."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    import splitcodec.tracking.live

    splitcodec.tracking.live.RETRY_SECONDS = 1.0
    point = {"model": MODEL, "split": SPLIT, "codec": "hyperprior", "coder": "ans"}
    live = LiveRun(point | {"lambda": LAMBDA, "seed": seed}, results, uri)
    for entry in entries(seed):
        if entry["step"] == STEPS - 1:
            back.wait()
        time.sleep(0.5)
        live(entry)


@pytest.fixture
def server(database, tmp_path):
    server = Server(database, tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_killed_server_loses_no_point_and_has_none_twice(server, tmp_path):
    results = synthetic.build(
        tmp_path / "results",
        splits=(SPLIT,),
        learned=("hyperprior",),
        seeds=tuple(range(WORKERS)),
        baselines=("int4",),
        coders=("zstd",),
    )
    synthetic.collect_points(results)
    for seed in range(WORKERS):
        place = f"codecs/{MODEL}/split{SPLIT}/hyperprior/lambda{LAMBDA:g}-seed{seed}/training.jsonl"
        (results / place).write_text(
            "".join(f"{line}\n" for line in map(json.dumps, entries(seed)))
        )
    context = multiprocessing.get_context("fork")
    back = context.Event()
    workers = [
        context.Process(target=report, args=(results, server.uri, seed, back))
        for seed in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    client = MlflowClient(server.uri)
    wait_for(lambda: len(shown(client)) == WORKERS)
    server.kill()
    time.sleep(4)
    server.start()
    back.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(shown(client)) == WORKERS
    for run in shown(client):
        assert len(client.get_metric_history(run.info.run_id, "training/fit_loss")) == STEPS
    for _ in range(2):
        sync(results, server.uri)
    runs = read_json(results / "mlflow-runs.json")["runs"]
    for seed in range(WORKERS):
        key = f"{MODEL}/split{SPLIT}/hyperprior/hyperprior λ={LAMBDA} seed={seed}"
        history = client.get_metric_history(runs[key], "training/fit_loss")
        assert sorted((m.step, m.value) for m in history) == [
            (entry["step"], entry["loss"]) for entry in entries(seed)
        ]
    assert len(shown(client)) == len(runs)
    assert not list((results / QUEUE).rglob("*.jsonl"))
