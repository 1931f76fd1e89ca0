"""The repository's papers: the paper's claims are complete, the citation is well formed."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml

from harness import __version__
from harness.system.places import REPOSITORY

LEVELS = ("simulated-time", "virtual-device", "cpu", "one-gpu", "multi-node")
CONFIDENCE = ("abstract", "summary by others", "related, unconfirmed")
# Terms of CodeMeta 3.0 and of schema.org that its context takes over, as far as they are used here.
CODEMETA = {
    *(
        "applicationCategory",
        "author",
        "description",
        "developmentStatus",
        "identifier",
        "keywords",
        "license",
    ),
    *(
        "name",
        "operatingSystem",
        "programmingLanguage",
        "readme",
        "referencePublication",
        "softwareRequirements",
    ),
    "version",
}


def read(path: str) -> Any:
    return yaml.safe_load((REPOSITORY / path).read_text())


CLAIMS = read("results/paper/claims.yaml")


@pytest.mark.parametrize("claim", CLAIMS["claims"], ids=lambda claim: claim["id"])
def test_a_claim_has_its_wording_source_confidence_and_readings(claim: dict[str, Any]) -> None:
    assert claim.keys() == {"id", "statement", "wording", "source", "confidence", "readings"}
    assert claim["confidence"] in CONFIDENCE
    assert claim["confidence"] == "abstract" or claim["wording"] == "unknown"
    for reading in claim["readings"]:
        assert {"id", "says", "judged_by", "least_evidence"} <= reading.keys()
        assert reading["least_evidence"] in LEVELS[1:], "simulated time alone supports nothing"


def test_ids_are_unique() -> None:
    ids = [(claim["id"], reading["id"]) for claim in CLAIMS["claims"] for reading in claim["readings"]]
    assert len(set(ids)) == len(ids)


def test_both_readings_of_98_percent_stand_with_the_bound_by_volume() -> None:
    (speed,) = (claim for claim in CLAIMS["claims"] if claim["id"] == "speed-98")
    r1, r2 = speed["readings"]
    assert (r1["id"], r2["id"]) == ("R1", "R2")
    for micro_steps in (1, 2, 4, 8):
        # In model bytes: ZeRO-3 gathers twice and reduces once a micro-step; hpZ gathers across nodes once a step.
        allowed = 3 * micro_steps / (1 + micro_steps)
        assert r1["bounds"][f"gradient_accumulation_{micro_steps}"] == pytest.approx(allowed, abs=0.005)


def test_every_setting_has_a_confidence_and_the_unknown_is_listed() -> None:
    assert all(setting["confidence"] in CONFIDENCE for setting in CLAIMS["settings"])
    assert {"node counts", "seeds", "the DeepSpeed release called stock"} <= set(CLAIMS["unknown"])


def test_the_citation_names_the_paper_as_the_claims_do() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert (paper["title"], names) == (CLAIMS["paper"]["title"], CLAIMS["paper"]["authors"])


def test_citation_codemeta_and_package_tell_the_same_of_the_software() -> None:
    citation, codemeta = read("CITATION.cff"), json.loads((REPOSITORY / "codemeta.json").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == codemeta["version"] == __version__
    assert citation["license"] == codemeta["license"].rpartition("/")[2] == project["license"]
    assert citation["keywords"] == codemeta["keywords"] == project["keywords"]
    assert codemeta["description"] == project["description"]
    assert codemeta["programmingLanguage"]["version"] == project["requires-python"]
    names = [author["name"] for author in citation["authors"]]
    assert [author["name"] for author in codemeta["author"]] == names
    (paper,) = citation["references"]
    dois = [one["value"] for one in paper["identifiers"] if one["type"] == "doi"]
    assert [codemeta["referencePublication"]["identifier"]] == [f"https://doi.org/{doi}" for doi in dois]


def test_codemeta_uses_terms_of_its_context_alone() -> None:
    codemeta = json.loads((REPOSITORY / "codemeta.json").read_text())
    assert codemeta["@context"] == "https://w3id.org/codemeta/3.0"
    assert codemeta["@type"] == "SoftwareSourceCode"
    assert set(codemeta) - {"@context", "@type"} <= CODEMETA


def test_the_version_has_release_notes() -> None:
    assert f"\n## {__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_every_kind_of_thing_that_is_shipped_has_a_licence() -> None:
    text = (REPOSITORY / "LICENSES.md").read_text()
    data = [file.name for file in (REPOSITORY / "experiments" / "data").iterdir() if file.suffix != ".md"]
    assert all(f"`experiments/data/{name}`" in text for name in data)
    folders = ("patches/", "experiments/models/", "analysis/page/templates/vendor/")
    assert all(f"`{folder}" in text for folder in folders)
