"""A study file and the runs it expands to: records that cross the house, axes, models, reading and writing."""

from harness.study.axes import bits_per_second
from harness.study.files import (
    check_attention,
    check_weights,
    data_file,
    load_study,
    make_results_folder,
    save_study,
)
from harness.study.hugging_face import any_model, model_content, model_name, model_text, toy_name
from harness.study.models import (
    ModelFile,
    PublicConfig,
    Scale,
    load_model_file,
    parameter_shapes,
    parse_model,
    unaligned_parameters,
)
from harness.study.packed import check_corpus, check_vocabulary, corpus_source
from harness.study.records import Data, Frozen, Rule, Run, Shape, Training
from harness.study.shape_ranges import Shapes, compress
from harness.study.study import Study

__all__ = [
    "Data",
    "Frozen",
    "ModelFile",
    "PublicConfig",
    "Rule",
    "Run",
    "Scale",
    "Shape",
    "Shapes",
    "Study",
    "Training",
    "any_model",
    "bits_per_second",
    "check_attention",
    "check_corpus",
    "check_vocabulary",
    "check_weights",
    "compress",
    "corpus_source",
    "data_file",
    "load_model_file",
    "load_study",
    "make_results_folder",
    "model_content",
    "model_name",
    "model_text",
    "parameter_shapes",
    "parse_model",
    "save_study",
    "toy_name",
    "unaligned_parameters",
]
