"""The repository's papers: the paper's claims are complete, the citation is well formed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from harness.system.places import REPOSITORY

LEVELS = ("simulated-time", "virtual-device", "cpu", "one-gpu", "multi-node")
CONFIDENCE = ("abstract", "summary by others", "related, unconfirmed")


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
