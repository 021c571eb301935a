"""The plan of an experiment on images."""

import yaml

from workflow_runs import ROOT, snakemake


def planned(directory, changes):
    params = yaml.safe_load((ROOT / "params/vision.yaml").read_text())
    params["images"] |= changes
    (directory / "params.yaml").write_text(yaml.safe_dump(params))
    found = snakemake(directory, "--dry-run", "--printshellcmds", config=directory / "params.yaml")
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_pictures_themselves_are_measured_and_reported(tmp_path):
    lines = planned(tmp_path, {"pictures": {"jpeg": [30, 60], "webp": [50]}}).splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith("splitcodec pictures")]
    assert len(commands) == 1
    for command in commands:
        assert "--jpeg 30 --jpeg 60 --webp 50" in command
    for verb in ("figures", "report"):
        (command,) = (line for line in lines if line.strip().startswith(f"splitcodec {verb} "))
        assert command.count("--pictures results/vision/pictures/") == 1
    assert not any("splitcodec examples" in line for line in lines), "they are of text"


def test_without_qualities_no_pictures_are_measured(tmp_path):
    assert "pictures/" not in planned(tmp_path, {"pictures": {"jpeg": [], "webp": []}})
