"""`--arguments FILE`: what no command line holds."""


def test_the_lines_of_a_file_stand_for_it(run, tmp_path):
    (tmp_path / "list").write_text("--experiment\ntoy\n--evaluation\nnowhere/a b.json\n")
    rest = ["--codec", "c", "--latency", "l", "--csv", "p.csv", "--parquet", "p", "--metrics", "m"]
    result = run("collect", "--arguments", tmp_path / "list", *rest)
    assert "c does not exist" in result.complaint


def test_a_missing_list_is_named(run, tmp_path):
    assert "nowhere" in run("collect", "--arguments", tmp_path / "nowhere").complaint


def test_a_list_without_a_name_is_refused(run):
    assert "--arguments needs the name" in run("collect", "--arguments").complaint
