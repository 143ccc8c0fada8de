"""Which fields DCGM exporter reads."""

import csv
import io

COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (C)."),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (W)."),
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (%)."),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (MiB)."),
    ("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (MiB)."),
    ("DCGM_FI_DEV_FB_RESERVED", "gauge", "Framebuffer memory reserved (MiB)."),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed."),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for uncorrectable errors."),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Double-bit ECC errors since the last driver load."),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", "counter", "Throttled by temperature (ns)."),
    ("DCGM_FI_DEV_POWER_VIOLATION", "counter", "Throttled by power (ns)."),
    ("DCGM_EXP_XID_ERRORS_COUNT", "gauge", "XID errors within the exporter's window."),
)
"""Field, Prometheus type, help. Violations and the windowed XID count are off in the exporter's own list.

A field that the card doesn't support has no series.
"""


def counters_csv() -> str:
    """The file for dcgm-exporter's `-f`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(COUNTERS)
    return text.getvalue()
