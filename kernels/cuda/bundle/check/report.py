"""The one JSON: written anew after every figure, so that nothing measured is
lost when the machine is."""

import json
import os
import statistics
import time

SCHEMA = "terrarium-cuda-results/1"


def spread(values):
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


class Report:
    """`figures` are declared before anything is measured: one that is not
    measured is in the JSON all the same, and says why."""

    def __init__(self, path, device, small):
        self.path = path
        self.data = {
            "schema": SCHEMA,
            "device": device,
            # Sizes of a rehearsal say nothing about speed.
            "small": small,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": 0,
            "machine": {},
            "sections": [],
            "figures": [],
        }
        self.start = time.monotonic()

    def declare(self, section, name, unit, aim=None):
        """A figure to come. `aim`: the least ratio to the peer (or to the
        roof) that the project wants."""
        figure = {
            "section": section,
            "name": name,
            "unit": unit,
            "measured": False,
            "why": "its section was not reached",
            "value": None,
            "peer": None,
            "ratio": None,
            "aim": aim,
        }
        self.data["figures"].append(figure)
        return figure

    def figure(self, section, name):
        for figure in self.data["figures"]:
            if figure["section"] == section and figure["name"] == name:
                return figure
        raise KeyError("%s/%s was not declared" % (section, name))

    def measured(self, section, name, values, peer=None, peer_values=None, ratio=None, note=None):
        """`values`: all samples; the median counts. The ratio is ours by the
        peer's unless it is given."""
        figure = self.figure(section, name)
        figure["measured"], figure["why"] = True, None
        figure["value"] = spread(values)
        if peer_values:
            figure["peer"] = dict(spread(peer_values), name=peer)
            if ratio is None and figure["peer"]["median"]:
                ratio = figure["value"]["median"] / figure["peer"]["median"]
        elif peer:
            figure["peer"] = {"name": peer, "median": None}
        figure["ratio"] = ratio
        if note:
            figure["note"] = note
        self.save()

    def failed(self, section, name, why):
        figure = self.figure(section, name)
        figure["why"] = why
        self.save()

    def unmeasured(self, section, why):
        for figure in self.data["figures"]:
            if figure["section"] == section and not figure["measured"]:
                if figure["why"] == "its section was not reached":
                    figure["why"] = why

    def section(self, name, status, why, seconds, log, **more):
        entry = {"name": name, "status": status, "why": why, "seconds": round(seconds, 1), "log": log}
        entry.update(more)
        self.data["sections"].append(entry)
        self.save()

    def save(self):
        self.data["seconds"] = round(time.monotonic() - self.start, 1)
        text = json.dumps(self.data, indent=1, allow_nan=False) + "\n"
        half = self.path + ".part"
        with open(half, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, self.path)
