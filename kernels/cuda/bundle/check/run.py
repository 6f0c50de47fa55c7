"""Runs all sections within a time limit, whatever happens in one of them."""

import argparse
import gzip
import os
import shutil
import stat
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine
import sections
from process import Contestant, run, wrong
from report import Report

BUNDLE = Path(__file__).resolve().parent.parent


class Skip(Exception):
    """Why a section cannot be done here."""


sections.Skip = Skip


class Check:
    """What all sections share."""

    def __init__(self, options):
        self.options = options
        self.small, self.device = options.small, options.device
        self.number = int(self.device.split(":")[1]) if self.device.startswith("cuda:") else None
        self.end = time.monotonic() + options.seconds
        self.report = Report(options.out, self.device, self.small)
        self.logs = Path(options.out + ".logs")
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.work = Path(tempfile.mkdtemp(prefix="terrarium-check-"))
        self.contestants = []
        # Why there is no card, or no PyTorch; None: there is.
        self.no_card = self.no_peer = None
        self.ours = self.peer = None
        self.env = dict(os.environ)
        self.env["TERRARIUM_TEMPLATES"] = str(BUNDLE / "templates")
        self.env["TERRARIUM_CACHE"] = str(self.cache())
        self.env.pop("TERRARIUM_BROKER", None)
        # Threads of the CPU device; more are no faster on small models.
        self.env.setdefault("RAYON_NUM_THREADS", str(min(os.cpu_count() or 1, 16)))
        # Compiled kernels of PyTorch stay out of the user's folders.
        self.env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self.work / "inductor"))
        self.env.setdefault("TRITON_CACHE_DIR", str(self.work / "triton"))
        self.broker_socket = None

    def cache(self):
        """A copy of the bundle's cache of our own: what lies in it is run, so
        nobody else may write there, and the bundle may be read-only."""
        cache = self.work / "cache"
        source = BUNDLE / "cache"
        if source.is_dir():
            shutil.copytree(source, cache)
        cache.mkdir(exist_ok=True)
        for path in [cache, *cache.rglob("*")]:
            if path.is_dir():
                path.chmod(0o700)
            else:
                path.chmod(path.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR)
        return cache

    def program(self, name):
        path = BUNDLE / "bin" / name
        packed = BUNDLE / "bin" / (name + ".gz")
        if packed.is_file():
            path = self.work / "bin" / name
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                with gzip.open(packed) as source, open(path, "wb") as to:
                    shutil.copyfileobj(source, to)
                path.chmod(0o755)
        if not path.is_file():
            raise Skip("bin/%s is not in this bundle" % name)
        if not os.access(path, os.X_OK):
            # Some ways of copying lose it.
            path.chmod(0o755)
        return path

    def contestant(self, name, command, log):
        found = Contestant(name, command, log, self.env)
        self.contestants.append(found)
        return found

    def left(self):
        return self.end - time.monotonic()

    def need_card(self):
        if self.no_card:
            raise Skip(self.no_card)

    def close(self):
        for contestant in self.contestants:
            contestant.close()
        shutil.rmtree(self.work, ignore_errors=True)


def perform(check, name, seconds, section):
    """One section: at most `seconds` and what is left of the whole."""
    report = check.report
    log_path = check.logs / (name + ".log")
    begin = time.monotonic()
    first = len(check.clocks.samples) if check.clocks else 0
    status, why = "done", None
    seconds = min(seconds, check.left())
    with open(log_path, "a", errors="replace") as log:
        if seconds < 3:
            status, why = "skipped", "no time left of %d s" % check.options.seconds
        else:
            for contestant in check.contestants:
                contestant.log = log
            print("%-12s ..." % name, end=" ", file=sys.stderr, flush=True)
            try:
                status, why = section(check, log, time.monotonic() + seconds) or ("done", None)
            except Skip as reason:
                status, why = "skipped", str(reason)
            except Exception as error:  # One section's trouble is not the next one's.
                traceback.print_exc(file=log)
                status, why = "failed", "%s: %s" % (type(error).__name__, str(error)[:300])
    if name == "machine" and status != "done" and not check.no_card:
        check.no_card = "without what `machine` looks for there is nothing to ask CUDA with: %s" % why
    took = time.monotonic() - begin
    print("%s%s (%.0f s)" % (status, ": " + why if why else "", took), file=sys.stderr, flush=True)
    report.unmeasured(name, why or "the section ended before it")
    more = {"clocks": check.clocks.since(first)} if check.clocks else {}
    report.section(name, status, why, took, "%s/%s.log" % (check.logs.name, name), **more)


def machine_section(check, log, deadline):
    """What is here: the card, by our own first CUDA call, and PyTorch."""
    number = check.number or 0
    found = check.report.data["machine"]
    found.update(machine.describe(number, log))
    manifest = BUNDLE / "bundle.json"
    if manifest.is_file():
        import json

        found["bundle"] = json.loads(manifest.read_text())
    status, text = run([check.program("terrarium"), "--version"], 20, log, check.env)
    if status != 0:
        check.no_card = "bin/terrarium does not start here (see the log); it needs glibc 2.35 or newer"
    found["terrarium"] = text.strip()
    check.ours = check.contestant("ours", [check.program("bench_device"), check.device], log)
    kind = check.ours.ask("kind", max(5, min(60, deadline - time.monotonic())))
    if wrong(kind):
        check.no_card = check.no_card or wrong(kind)
    else:
        found["device"] = kind
    peer = "cuda:%d" % number if check.number is not None else "cpu"
    check.peer = check.contestant("peer", [sys.executable, Path(__file__).parent / "peer.py", peer], log)
    if check.no_card and check.number is not None:
        check.no_peer = "not asked: " + check.no_card
        found["peer"] = None
    else:
        answer = check.peer.ask("kind", max(5, min(90, deadline - time.monotonic())))
        check.no_peer = wrong(answer)
        found["peer"] = answer
        if check.no_peer:
            check.no_peer = "no PyTorch that runs on %s: %s" % (peer, check.no_peer)
    if check.no_peer:
        log.write("without peers: %s\n" % check.no_peer)
    if check.no_card:
        raise Skip(check.no_card)
    return ("done", check.no_peer)


# Name, most seconds, function. The most important first: what no time is left
# for is skipped.
SECTIONS = [
    ("machine", 120, machine_section),
    ("correctness", 75, sections.correctness),
    ("compare", 40, sections.compare),
    ("step", 110, sections.step),
    ("products", 50, sections.products),
    ("attention", 60, sections.attention),
    ("bandwidth", 50, sections.bandwidth),
    ("score", 60, sections.score),
    ("hostile", 45, sections.hostile),
    ("tax", 70, sections.tax),
    ("broker", 30, sections.broker),
    ("sanitizer", 60, sections.sanitizer),
]


def main():
    parser = argparse.ArgumentParser(description="Checks and measures everything; see README.md.")
    parser.add_argument("--device", default="cuda:0", help="cuda:N; cpu rehearses the scripts")
    parser.add_argument("--seconds", type=int, default=460, help="for all of it")
    parser.add_argument("--out", default=str(BUNDLE / "results.json"))
    parser.add_argument("--only", default="", help="only these sections, by commas")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to rehearse")
    options = parser.parse_args()
    options.out = os.path.abspath(options.out)
    check = Check(options)
    check.clocks = None
    try:
        for declare in sections.DECLARATIONS:
            declare(check)
        check.report.save()
        if check.number is not None:
            check.clocks = machine.Clocks(check.number)
        only = [name for name in options.only.split(",") if name]
        for name, seconds, section in SECTIONS:
            if not only or name in only or name == "machine":
                perform(check, name, seconds, section)
        figures = check.report.data["figures"]
        for figure in figures:
            if figure["measured"]:
                shown = "%.4g %s" % (figure["value"]["median"], figure["unit"])
                ratio = "  ratio %.3f" % figure["ratio"] if figure["ratio"] is not None else ""
                print("%-12s %-52s %s%s" % (figure["section"], figure["name"], shown, ratio), file=sys.stderr)
        missing = sum(not figure["measured"] for figure in figures)
        print("%d of %d figures were not measured; the JSON says why" % (missing, len(figures)), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept", file=sys.stderr)
    finally:
        if check.clocks:
            check.clocks.stop.set()
        sections.stop_broker(check)
        check.close()
        check.report.save()
    print("written: %s" % options.out)


main()
