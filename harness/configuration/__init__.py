"""DeepSpeed configurations as people hold them, checked against DeepSpeed's keys; releases as people name them."""

from harness.configuration.autos import resolved
from harness.configuration.files import read_text
from harness.configuration.found import Found
from harness.configuration.keys import Checked, checked
from harness.configuration.read import read_arguments, read_command, read_configuration, script_facts
from harness.configuration.recipes import brought_along
from harness.configuration.releases import FIRST, Release, named_release, no_zeropp
from harness.configuration.remarks import Remark

__all__ = [
    "FIRST",
    "Checked",
    "Found",
    "Release",
    "Remark",
    "brought_along",
    "checked",
    "named_release",
    "no_zeropp",
    "read_arguments",
    "read_command",
    "read_configuration",
    "read_text",
    "resolved",
    "script_facts",
]
