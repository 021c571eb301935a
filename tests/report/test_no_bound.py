"""With fewer tokens than channels there is no covariance bound; the report still stands."""

import json

import synthetic

from splitcodec.report.figures import draw
from splitcodec.report.page import Material, write_report


def test_a_bound_that_is_none_is_left_out(results, tmp_path):
    limits = sorted(results.glob("bounds/*/*.json"))
    for path in limits:
        document = json.loads(path.read_text())
        document["covariance"] |= {"representation_bits_per_token": None, "standard_error": None}
        for row in document["covariance"]["codecs"][:1]:
            row |= {"bits_per_token": None, "standard_error": None}
        path.write_text(json.dumps(document))
    references = sorted(results.glob("references/*.json"))
    points = results / "points.parquet"
    figures = draw(points, references, limits, tmp_path / "figures")
    page = tmp_path / "report.html"
    write_report(points, Material(figures, references, limits, synthetic.codecs(results)), page)
    assert "<td>–</td>" in page.read_text(encoding="utf-8")
