"""What this machine is, and how its clocks were while things were measured."""

import os
import platform
import shutil
import statistics
import subprocess
import threading

from process import run

STATIC = [
    "name",
    "driver_version",
    "memory.total",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "ecc.mode.current",
    "persistence_mode",
    "compute_cap",
]
MOVING = ["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu", "memory.used"]


def query(fields, number):
    """nvidia-smi's answers, by field; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits", "-i", str(number)]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=15).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = [word.strip() for word in text.strip().split("\n")[0].split(",")]
    return dict(zip(fields, words)) if len(words) == len(fields) else {}


def describe(number, log):
    """Everything about the machine that a figure may depend on."""
    card = query(STATIC, number)
    # Fields that an older driver does not know take all others with them.
    if not card:
        for field in STATIC:
            card.update(query([field], number))
    if shutil.which("nvidia-smi"):
        run(["nvidia-smi"], 15, log)
    else:
        log.write("no nvidia-smi on the path\n")
    memory = 0
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        pass
    cpu = ""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
            cpu = names[0] if names else ""
    except OSError:
        pass
    return {
        "card": card,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


class Clocks:
    """Samples the card every two seconds on a thread of its own."""

    def __init__(self, number):
        self.number, self.samples, self.stop = number, [], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        if shutil.which("nvidia-smi"):
            self.thread.start()

    def watch(self):
        while not self.stop.wait(2.0):
            sample = query(MOVING, self.number)
            if sample:
                self.samples.append(sample)

    def since(self, first):
        """Median of each number sampled from number `first` on."""
        found = {}
        for field in MOVING:
            values = []
            for sample in self.samples[first:]:
                try:
                    values.append(float(sample[field]))
                except ValueError:
                    pass
            if values:
                found[field] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        return found
