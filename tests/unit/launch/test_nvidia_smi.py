"""GPUs as nvidia-smi tells of them: its XML as drivers of several years write it, shortened, and how it fails."""

from __future__ import annotations

import pytest

from harness.launch.slurm.nvidia_smi import Cards, hardware_xids, parse_cards

# Driver 555, an L4; the header and the parts that are read, in nvidia-smi's order.
L4 = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<timestamp>Mon Jul 15 13:41:56 2024</timestamp>
	<driver_version>555.42.06</driver_version>
	<cuda_version>12.5</cuda_version>
	<attached_gpus>1</attached_gpus>
	<gpu id="00000000:01:00.0">
		<product_name>NVIDIA L4</product_name>
		<gpu_reset_status>
			<reset_required>No</reset_required>
			<drain_and_reset_recommended>N/A</drain_and_reset_recommended>
		</gpu_reset_status>
		<clocks_event_reasons>
			<clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
			<clocks_event_reason_sw_power_cap>Not Active</clocks_event_reason_sw_power_cap>
			<clocks_event_reason_hw_slowdown>Not Active</clocks_event_reason_hw_slowdown>
			<clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown>
			<clocks_event_reason_hw_power_brake_slowdown>Not Active</clocks_event_reason_hw_power_brake_slowdown>
		</clocks_event_reasons>
		<fb_memory_usage>
			<total>23034 MiB</total>
			<reserved>434 MiB</reserved>
			<used>1 MiB</used>
			<free>22601 MiB</free>
		</fb_memory_usage>
		<ecc_errors>
			<volatile>
				<sram_correctable>0</sram_correctable>
				<sram_uncorrectable_parity>0</sram_uncorrectable_parity>
				<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
				<dram_correctable>0</dram_correctable>
				<dram_uncorrectable>0</dram_uncorrectable>
			</volatile>
			<aggregate>
				<dram_uncorrectable>0</dram_uncorrectable>
				<sram_threshold_exceeded>No</sram_threshold_exceeded>
			</aggregate>
		</ecc_errors>
		<retired_pages>
			<pending_blacklist>N/A</pending_blacklist>
			<pending_retirement>N/A</pending_retirement>
		</retired_pages>
		<remapped_rows>
			<remapped_row_corr>0</remapped_row_corr>
			<remapped_row_unc>0</remapped_row_unc>
			<remapped_row_pending>No</remapped_row_pending>
			<remapped_row_failure>No</remapped_row_failure>
		</remapped_rows>
		<gpu_power_readings>
			<power_state>P0</power_state>
			<power_draw>27.22 W</power_draw>
			<current_power_limit>72.00 W</current_power_limit>
			<default_power_limit>72.00 W</default_power_limit>
		</gpu_power_readings>
		<max_clocks>
			<graphics_clock>2040 MHz</graphics_clock>
			<sm_clock>2040 MHz</sm_clock>
			<mem_clock>6251 MHz</mem_clock>
		</max_clocks>
	</gpu>

</nvidia_smi_log>
"""

# Driver 470, a V100: other names for power, clocks and ECC, and parts that the card lacks are N/A.
V100 = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v11.dtd">
<nvidia_smi_log>
	<driver_version>470.103.01</driver_version>
	<attached_gpus>1</attached_gpus>
	<gpu id="00000000:D8:00.0">
		<product_name>Tesla V100-PCIE-32GB</product_name>
		<clocks_throttle_reasons>
			<clocks_throttle_reason_gpu_idle>Not Active</clocks_throttle_reason_gpu_idle>
			<clocks_throttle_reason_hw_slowdown>Active</clocks_throttle_reason_hw_slowdown>
			<clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown>
			<clocks_throttle_reason_hw_power_brake_slowdown>Not Active</clocks_throttle_reason_hw_power_brake_slowdown>
		</clocks_throttle_reasons>
		<fb_memory_usage>
			<total>32510 MiB</total>
			<used>4 MiB</used>
			<free>32506 MiB</free>
		</fb_memory_usage>
		<ecc_errors>
			<volatile>
				<single_bit><total>7</total></single_bit>
				<double_bit><device_memory>2</device_memory><cbu>0</cbu><total>2</total></double_bit>
			</volatile>
		</ecc_errors>
		<retired_pages>
			<pending_blacklist>Yes</pending_blacklist>
			<pending_retirement>Yes</pending_retirement>
		</retired_pages>
		<remapped_rows>N/A</remapped_rows>
		<power_readings>
			<power_state>P0</power_state>
			<power_limit>250.00 W</power_limit>
			<default_power_limit>250.00 W</default_power_limit>
		</power_readings>
		<max_clocks>
			<graphics_clock>1380 MHz</graphics_clock>
			<sm_clock>1380 MHz</sm_clock>
		</max_clocks>
	</gpu>
</nvidia_smi_log>
"""


def troubles(xml: str) -> tuple[str, ...]:
    (gpu,) = parse_cards(xml).gpus
    return gpu.troubles


def test_a_card_that_is_well_has_no_troubles() -> None:
    cards = parse_cards(L4)
    (gpu,) = cards.gpus
    assert (gpu.name, gpu.memory_mib, gpu.memory_free_mib) == ("NVIDIA L4", 23034, 22601)
    assert (gpu.max_sm_mhz, gpu.power_limit_watts) == (2040, 72.0)
    assert gpu.troubles == () and cards.problem is None


def test_an_older_driver_says_the_same_under_other_names() -> None:
    (gpu,) = parse_cards(V100).gpus
    assert (gpu.name, gpu.memory_free_mib) == ("Tesla V100-PCIE-32GB", 32506)
    assert (gpu.max_sm_mhz, gpu.power_limit_watts) == (1380, 250.0)
    assert gpu.troubles == (
        "2 uncorrected ECC errors since its driver was loaded",
        "a page is to be retired: needs a reset",
        "its clocks are held down (hw_slowdown)",
        "its clocks are held down (hw_thermal_slowdown)",
    )


@pytest.mark.parametrize(
    ("well", "ill", "expected"),
    [
        (
            "<dram_uncorrectable>0</dram_uncorrectable>\n\t\t\t</volatile>",
            "<dram_uncorrectable>3</dram_uncorrectable>\n\t\t\t</volatile>",
            "3 uncorrected ECC errors since its driver was loaded",
        ),
        ("pending>No</remapped", "pending>Yes</remapped", "a row is to be remapped: needs a reset"),
        ("failure>No</remapped", "failure>Yes</remapped", "row remapping failed"),
        ("exceeded>No</sram", "exceeded>Yes</sram", "SRAM errors past their threshold"),
        ("required>No</reset", "required>Yes</reset", "needs a reset"),
        ("<power_state>P0</power_state>", "<power_state>GPU is lost</power_state>", "GPU is lost"),
        (  # drivers from 560 on
            "<gpu_reset_status>",
            "<gpu_recovery_action>Drain and Reset</gpu_recovery_action>\n\t\t<gpu_reset_status>",
            "its driver asks for: Drain and Reset",
        ),
    ],
)
def test_each_trouble_is_told(well: str, ill: str, expected: str) -> None:
    assert well in L4
    assert troubles(L4.replace(well, ill)) == (expected,)


def test_newer_words_for_nothing_are_no_trouble() -> None:
    deprecated = "<reset_required>Requested functionality has been deprecated</reset_required>"
    action = "<gpu_recovery_action>None</gpu_recovery_action>"
    assert troubles(L4.replace("<reset_required>No</reset_required>", deprecated + action)) == ()


@pytest.mark.parametrize(
    "words",
    [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.",
        "Failed to initialize NVML: Driver/library version mismatch",
        "No devices were found",
    ],
)
def test_a_driver_that_does_not_answer_is_told_in_its_words(words: str) -> None:
    assert parse_cards(f"{words}\n\n") == Cards(problem=f"nvidia-smi: {words}")


def test_a_card_that_fell_off_the_bus_is_told_beside_those_that_are_there() -> None:
    words = "Unable to determine the device handle for GPU1: 0000:34:00.0: Unknown Error"
    cards = parse_cards(f"{words}\n{L4}")
    assert len(cards.gpus) == 1 and cards.problem == f"nvidia-smi: {words}"


@pytest.mark.parametrize("text", ["", "<nvidia_smi_log><gpu>", "<nvidia_smi_log><gpu></nvidia_smi_log>"])
def test_half_an_answer_is_a_problem(text: str) -> None:
    assert parse_cards(text).problem


KERNEL = """\
[    9.123456] nvidia-nvlink: Nvlink Core is being initialized, major device number 511
[  100.000001] NVRM: Xid (PCI:0000:83:00): 48, pid=1234, name=python, DBE (double bit error) at 0x0
[  200.000001] NVRM: Xid (PCI:0000:00:06): 31, pid=79749, name=exe, Ch 0000000a, intr 00000000. MMU Fault
[  300.000001] NVRM: Xid (PCI:0000:3b:00): 79, pid=1122, GPU has fallen off the bus.
[  300.000002] NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.
"""


def test_xids_of_the_hardware_are_told_and_those_of_programs_are_not() -> None:
    assert hardware_xids(KERNEL) == [
        "Xid 48 of PCI:0000:83:00 (pid=1234, name=python, DBE (double bit error) at 0x0)",
        "Xid 79 of PCI:0000:3b:00 (pid=1122, GPU has fallen off the bus.)",
    ]


def test_xids_of_long_ago_are_not_told() -> None:
    assert [xid[:6] for xid in hardware_xids(KERNEL, since=250)] == ["Xid 79"]
