"""A study file and the runs it expands to: records that cross the house, axes, models, reading and writing."""

from harness.study.axes import bits_per_second
from harness.study.files import check_weights, data_file, load_study, make_results_folder, save_study
from harness.study.models import (
    ModelFile,
    load_model_file,
    parameter_shapes,
    parse_model,
    unaligned_parameters,
)
from harness.study.packed import check_corpus, check_vocabulary, corpus_source
from harness.study.records import Data, Frozen, Rule, Run, Shape, Training
from harness.study.study import Study

__all__ = [
    "Data",
    "Frozen",
    "ModelFile",
    "Rule",
    "Run",
    "Shape",
    "Study",
    "Training",
    "bits_per_second",
    "check_corpus",
    "check_vocabulary",
    "check_weights",
    "corpus_source",
    "data_file",
    "load_model_file",
    "load_study",
    "make_results_folder",
    "parameter_shapes",
    "parse_model",
    "save_study",
    "unaligned_parameters",
]
