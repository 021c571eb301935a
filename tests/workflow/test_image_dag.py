"""The plan of an experiment on images."""

import re

import yaml

from workflow_runs import ROOT, snakemake


def planned(directory, changes):
    """The shell commands of the plan, by verb."""
    params = yaml.safe_load((ROOT / "params/vision.yaml").read_text())
    params["images"] |= changes
    (directory / "params.yaml").write_text(yaml.safe_dump(params))
    found = snakemake(directory, "--dry-run", "--printshellcmds", config=directory / "params.yaml")
    assert found.returncode == 0, found.stderr
    commands = re.findall(r"splitcodec (\S+) .*", found.stdout)
    return {verb: re.findall(rf"splitcodec {verb} .*", found.stdout) for verb in commands}


def test_pictures_themselves_are_measured_and_reported(tmp_path):
    commands = planned(tmp_path, {"pictures": {"jpeg": [30, 60], "webp": [50]}})
    (measured,) = commands["pictures"]
    assert "--jpeg 30 --jpeg 60 --webp 50" in measured
    for verb in ("figures", "report"):
        (command,) = commands[verb]
        assert "--pictures results/vision/pictures/efficientnet-lite0.json" in command
    assert "examples" not in commands, "they are of text"


def test_without_qualities_no_pictures_are_measured(tmp_path):
    commands = planned(tmp_path, {"pictures": {"jpeg": [], "webp": []}})
    assert "pictures" not in commands
    assert "--pictures" not in commands["report"][0]
