"""The sections of the check. Each takes (check, log, deadline), declares its
figures in DECLARATIONS, and returns None or (status, why)."""

import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from process import kill, run, wrong

BUNDLE = Path(__file__).resolve().parent.parent

# Set by run.py: why a section cannot be done here.
Skip = None

DECLARATIONS = []


def declares(function):
    DECLARATIONS.append(function)
    return function


def seconds_left(deadline, most):
    return max(1.0, min(most, deadline - time.monotonic()))


def late(deadline):
    return time.monotonic() >= deadline - 1.0


# ---- correctness: the device's own property tests, and against the CPU device

# Modules of the device's tests that run operations. Each is a process of its
# own: a card that is lost in one must not fail the others.
MODULES = [
    "tensor_cores::",
    "halves::",
    "matrices::",
    "fused::",
    "rows::",
    "models::",
    "experts::",
    "secrets::",
    "garbage::nothing_panics",
]


@declares
def declare_correctness(check):
    for name in MODULES:
        check.report.declare("correctness", name.rstrip(":"), "tests passed")
    for case in compare_cases(check):
        check.report.declare("compare", case[0], "largest error of 1 + |value|")


def tests(check, log, name, seconds, before=()):
    """(passed, failed names, ended in time) of the device tests of a name."""
    env = dict(check.env)
    if check.number is not None:
        env["TERRARIUM_TEST_ON_CUDA"] = "1"
    command = [*before, check.program("device-tests"), name, "--test-threads=1"]
    status, text = run(command, seconds, log, env)
    passed = len(re.findall(r"^test .* \.\.\. ok$", text, re.M))
    failed = re.findall(r"^test (\S+) \.\.\. FAILED$", text, re.M)
    return passed, failed, status


def correctness(check, log, deadline):
    check.need_card()
    # PyTorch compiles its model meanwhile; nothing is timed before `step`.
    warm_peer(check)
    bad = []
    for at, name in enumerate(MODULES):
        if late(deadline):
            break
        share = seconds_left(deadline, max(10.0, (deadline - time.monotonic()) / (len(MODULES) - at) * 2))
        passed, failed, status = tests(check, log, name, share)
        label = name.rstrip(":")
        if status == 0 and passed:
            check.report.measured("correctness", label, [passed])
        else:
            why = "out of time" if status is None else "FAILED: " + ", ".join(failed) if failed else "it died"
            bad.append("%s (%s)" % (label, why))
            check.report.failed("correctness", label, why)
    return ("failed", "; ".join(bad)) if bad else None


def compare_cases(check):
    """Name, the largest error allowed. Large enough for several tiles and
    odd enough for their edges."""
    bf16 = 1 / 64
    if check.small:
        return [
            ("product f32 nn 33 20 17 f32", 1e-5),
            ("product bf16 nt 40 64 24 bf16", bf16),
            ("attention f32 1 33 2 1 16 8", 1e-4),
            ("rms_norm 9 33", 1e-5),
        ]
    return [
        ("product f32 nn 300 200 250 f32", 1e-4),
        ("product bf16 nt 1000 512 776 bf16", bf16),
        ("product bf16 nn 1000 776 512 bf16", bf16),
        ("product bf16 tn 520 1024 520 bf16", bf16),
        ("product bf16 tn 512 8192 512 f32", 1e-3),
        ("product bf16 nt 333 201 77 f32", 1e-3),
        ("attention f32 2 500 4 2 128 128", 1e-3),
        ("attention f32 2 300 4 4 64 0", 1e-3),
        ("attention_backward f32 2 300 4 2 128 100", 1e-3),
        ("attention bf16 2 500 4 2 128 128", bf16),
        ("attention_backward bf16 2 300 4 2 128 100", 4 * bf16),
        ("cross_entropy f32 300 512 1000", 1e-3),
        ("cross_entropy_backward f32 300 512 1000", 1e-3),
        ("cross_entropy bf16 300 512 1000", bf16),
        ("cross_entropy_backward bf16 300 512 1000", 4 * bf16),
        ("rms_norm 1000 512", 1e-5),
        ("rms_norm_backward 1000 512", 1e-4),
        ("layer_norm 1000 512", 1e-4),
        ("rope_norm 2 500 4 128", 1e-3),
        ("gather 3000 700 512", 0.0),
        ("scatter_add 3000 700 512", 1e-4),
        ("relu_squared 700 1000", 1e-6),
        ("softmax 700 1000", 1e-5),
        ("reduce_rows 3000 700", 1e-4),
        ("transpose 700 1000", 0.0),
        ("adamw 100003", 1e-5),
        ("copy 100003", 0.0),
        ("cast 100003", 0.0),
    ]


def compare(check, log, deadline):
    check.need_card()
    bad = []
    for case, bound in compare_cases(check):
        if late(deadline):
            break
        answer = check.ours.ask("compare " + case, seconds_left(deadline, 20))
        if wrong(answer):
            check.report.failed("compare", case, wrong(answer))
            # bfloat16 attention may not be in this build.
            if "ShapeMismatch" not in wrong(answer) and "must be F32" not in wrong(answer):
                bad.append("%s (%s)" % (case, wrong(answer)[:80]))
            continue
        if answer["worst"] == "not finite":
            check.report.failed("compare", case, "not finite")
            bad.append(case + " (not finite)")
            continue
        note = "bound %g; %s bits twice" % (bound, "the same" if answer["same_bits_twice"] else "OTHER")
        check.report.measured("compare", case, [answer["worst"]], note=note)
        if answer["worst"] > bound or not answer["same_bits_twice"]:
            bad.append("%s (%g, %s)" % (case, answer["worst"], note))
    return ("failed", "; ".join(bad)) if bad else None


# ---- single operations beside PyTorch

ROOF = "copy"


def product_cases(check):
    if check.small:
        return ["product bf16 nt 64 32 32 bf16", "product f32 nn 64 32 32 f32"]
    n = 65536
    return [
        # Forward, gradient of the input, gradient of the weight: of queries,
        # of the MLP's two layers; and logits.
        "product bf16 nt %d 512 512 bf16" % n,
        "product bf16 nt %d 512 2048 bf16" % n,
        "product bf16 nt %d 2048 512 bf16" % n,
        "product bf16 nn %d 512 512 bf16" % n,
        "product bf16 nn %d 512 2048 bf16" % n,
        "product bf16 nn %d 2048 512 bf16" % n,
        "product bf16 tn 512 %d 512 bf16" % n,
        "product bf16 tn 2048 %d 512 bf16" % n,
        "product bf16 tn 512 %d 2048 bf16" % n,
        "product bf16 nt %d 512 8192 bf16" % n,
        "product bf16 nn 4096 4096 4096 bf16",
        "product bf16 nn 8192 8192 8192 bf16",
        "product f32 nn 2048 2048 2048 f32",
    ]


def attention_cases(check):
    if check.small:
        return ["attention f32 1 32 2 2 16 0", "attention_backward f32 1 32 2 2 16 8"]
    shapes = ["32 2048 4 4 128 1024", "32 2048 4 4 128 0", "8 2048 16 16 128 0"]
    return ["%s bf16 %s" % (way, shape) for shape in shapes for way in ("attention", "attention_backward")]


def bandwidth_cases(check):
    if check.small:
        return ["copy 4096", "rms_norm 16 64", "adamw 4096", "cross_entropy f32 16 32 64"]
    return [
        "copy 268435456",
        "cast 268435456",
        "rms_norm 131072 512",
        "rms_norm_backward 131072 512",
        "layer_norm 131072 512",
        "rope_norm 64 2048 4 128",
        "relu_squared 65536 2048",
        "softmax 65536 2048",
        "gather 131072 8192 512",
        "scatter_add 131072 8192 512",
        "reduce_rows 131072 512",
        "transpose 16384 8192",
        "adamw 50331648",
        "cross_entropy bf16 65536 512 8192",
        "cross_entropy_backward bf16 65536 512 8192",
    ]


def is_compute(case):
    return case.split()[0] in ("product", "attention", "attention_backward", "cross_entropy", "cross_entropy_backward")


@declares
def declare_operations(check):
    for section, cases in (
        ("products", product_cases(check)),
        ("attention", attention_cases(check)),
        ("bandwidth", bandwidth_cases(check)),
    ):
        for case in cases:
            if section == "bandwidth":
                # The aim is a share of the copy; the copy itself has none.
                aim = None if is_compute(case) or case.startswith("copy") else 0.85
                check.report.declare(section, case, "TFLOP/s" if is_compute(case) else "GB/s", aim)
            else:
                check.report.declare(section, case, "TFLOP/s", 1.0)


def ask_in_turn(check, log, case, rounds, deadline):
    """(our answer, our seconds, peer's answer, peer's seconds): both are asked
    `rounds` times, in turn."""
    ours, theirs, our_seconds, their_seconds = None, None, [], []
    asked = case
    for _ in range(rounds):
        if late(deadline) and our_seconds:
            break
        answer = check.ours.ask("time " + asked, seconds_left(deadline, 25))
        if wrong(answer) and " bf16 " in asked and not asked.startswith("product") and "F32" in wrong(answer):
            # This build's operation has no bfloat16 operands: as it is.
            asked = asked.replace(" bf16 ", " f32 ", 1)
            answer = check.ours.ask("time " + asked, seconds_left(deadline, 25))
        ours = answer
        if wrong(answer):
            break
        ours["asked"] = asked
        our_seconds.append(statistics.median(answer["seconds"]))
        if check.no_peer:
            continue
        # The peer always has what it is fastest with.
        answer = check.peer.ask("time " + case, seconds_left(deadline, 60))
        theirs = answer
        if not wrong(answer):
            their_seconds.append(statistics.median(answer["seconds"]))
    return ours, our_seconds, theirs, their_seconds


def operations(check, log, deadline, section, cases, rounds=3):
    check.need_card()
    wait_for_peer(check, deadline)
    bad = []
    roof = None
    for case in cases:
        if late(deadline):
            break
        ours, our_seconds, theirs, their_seconds = ask_in_turn(check, log, case, rounds, deadline)
        if not our_seconds:
            check.report.failed(section, case, wrong(ours) or "no time was measured")
            bad.append("%s (%s)" % (case, (wrong(ours) or "")[:80]))
            continue
        work, unit = (ours["flops"], 1e12) if is_compute(case) else (ours["bytes"], 1e9)
        rate = [work / seconds / unit for seconds in our_seconds]
        peer_rate = [work / seconds / unit for seconds in their_seconds]
        peer = theirs.get("peer") if isinstance(theirs, dict) else None
        note = None
        if case.startswith("cross_entropy_backward"):
            # The peer's figure is of both passes: ours of both beside it.
            forward = check.report.figure(section, case.replace("_backward", "", 1))
            if forward["measured"] and their_seconds:
                both = work + work / 3
                whole = statistics.median(our_seconds) + work / 3 / unit / forward["value"]["median"]
                peer_rate = [both / seconds / unit for seconds in their_seconds]
                check.report.measured(
                    section, case, rate, peer, peer_rate, both / whole / unit / statistics.median(peer_rate),
                    "the ratio is of both passes together",
                )
                continue
        if ours["asked"] != case:
            note = "ours with float32 operands (%s)" % ours["asked"]
        if check.no_peer or (theirs and wrong(theirs)):
            peer = "none: " + (check.no_peer or wrong(theirs))[:200]
        if section == "bandwidth" and not is_compute(case):
            best = max([statistics.median(rate)] + ([statistics.median(peer_rate)] if peer_rate else []))
            if case.startswith(ROOF + " "):
                roof = best
            share = statistics.median(rate) / roof if roof else None
            # Against the roof, which is the faster of both copies.
            check.report.measured(section, case, rate, peer, peer_rate, share, note)
        else:
            check.report.measured(section, case, rate, peer, peer_rate, None, note)
    return ("failed", "; ".join(bad)) if bad else None


def products(check, log, deadline):
    return operations(check, log, deadline, "products", product_cases(check))


def attention(check, log, deadline):
    # The peer tries several ways at each question.
    return operations(check, log, deadline, "attention", attention_cases(check), rounds=2)


def bandwidth(check, log, deadline):
    bad = operations(check, log, deadline, "bandwidth", bandwidth_cases(check), rounds=2)
    # Now both peaks are known.
    most_by_account(check)
    return bad


# ---- the whole training step

STEP = "gpt-h100: 8 layers, width 512, T 2048, 524,288 tokens a step"
MOST = "the most that its account allows at the peaks measured"
# What TERRARIUM_CUDA switches off.
SWITCHED = {"the same, without clusters": "alone", "the same, portable kernels": "portable"}


@declares
def declare_step(check):
    check.report.declare("step", STEP, "tokens/s", 1.2)
    for name in (MOST, *SWITCHED):
        check.report.declare("step", name, "tokens/s")
    check.report.declare("tax", "gpt (small preset), through the broker", "fraction", None)
    check.report.declare("tax", "gpt, larger, through the broker", "fraction", None)
    check.report.declare("tax", "gpt-h100 with bytes: in the glass beside native", "tokens/s", 0.995)


def step_shape(check):
    """rows, our parts, the peer's parts, time, vocabulary, and the peer's and
    our sizes where they are not the template's."""
    if check.small:
        return 4, 2, 2, 32, 512, ["2", "2", "32"], ["depth=2", "heads=2", "head_dim_by_8=4"]
    total = 0
    try:
        total = float(check.report.data["machine"]["card"]["memory.total"]) / 1024
    except (KeyError, ValueError):
        pass
    # By GiB of the card: both models stay on it at once.
    ours, theirs = (8, 4) if total > 70 else (16, 8) if total > 38 else (64, 32)
    return 256, ours, theirs, 2048, 8192, [], []


def warm_peer(check):
    """Has PyTorch compile its model now, without waiting for it."""
    if check.no_peer:
        return
    rows, _, parts, time_, vocabulary, sizes, _ = step_shape(check)
    question = "model %d %d %d %d %s" % (rows, parts, time_, vocabulary, " ".join(sizes))
    try:
        check.peer.begin(question)
        check.peer_busy = True
    except OSError as error:
        check.no_peer = "PyTorch's process ended: %s" % error


def wait_for_peer(check, deadline):
    """The answer of `warm_peer`, once; None if it was not begun."""
    if not getattr(check, "peer_busy", False):
        return None
    check.peer_busy = False
    check.peer_model = check.peer.end(seconds_left(deadline, 75))
    return check.peer_model


def step(check, log, deadline):
    check.need_card()
    rows, parts, peer_parts, time_, vocabulary, sizes, knobs = step_shape(check)
    if not check.no_peer and not hasattr(check, "peer_busy"):
        warm_peer(check)
    tokens = rows * time_
    ask = "model %d %d %d %d %s" % (rows, parts, time_, vocabulary, " ".join(knobs))
    made = check.ours.ask(ask, seconds_left(deadline, 40))
    # Warm-up: allocation, loading of kernels, the first batches.
    first = made if wrong(made) else check.ours.ask("step 3", seconds_left(deadline, 60))
    theirs = wait_for_peer(check, deadline) or getattr(check, "peer_model", None)
    if wrong(first):
        check.report.failed("step", STEP, wrong(first))
        return "failed", wrong(first)
    peer_ok = theirs is not None and not wrong(theirs)
    ours, peers = [], []
    for _ in range(5):
        if late(deadline) and ours:
            break
        answer = check.ours.ask("step 3", seconds_left(deadline, 40))
        if wrong(answer):
            break
        ours += [tokens / seconds for seconds in answer]
        if peer_ok:
            answer = check.peer.ask("step 3", seconds_left(deadline, 40))
            if not wrong(answer):
                peers += [tokens / seconds for seconds in answer]
    if not ours:
        check.report.failed("step", STEP, "no step ended in time")
        return "failed", "no step ended in time"
    peer = "PyTorch, compiled, " + json.dumps(theirs["attention"]) if peer_ok else "none: %s" % (
        check.no_peer or (wrong(theirs) if theirs else "it did not answer")
    )
    check.account = tokens, check.ours.ask("account", seconds_left(deadline, 10))
    # Ends the training.
    losses = check.ours.ask("loss", seconds_left(deadline, 20))
    check.report.measured("step", STEP, ours, peer, peers, note="our losses %s; the peer's %s" % (
        json.dumps(losses)[:200], json.dumps(theirs.get("losses") if peer_ok else None)[:200]))
    for name, switch in SWITCHED.items():
        switched(check, log, deadline, ask, tokens, name, switch)
    return None


def most_by_account(check):
    """What no kernels could exceed: each operation takes at least the longer of
    its flops and its bytes, at the fastest product and copy of this run."""
    tokens, lines = getattr(check, "account", (0, {"error": "no step was made"}))
    if wrong(lines):
        check.report.failed("step", MOST, wrong(lines))
        return
    figures = [f for f in check.report.data["figures"] if f["measured"]]

    def fastest(section, start):
        these = [f for f in figures if f["section"] == section and f["name"].startswith(start)]
        sides = [side for f in these for side in (f["value"], f["peer"]) if side and side["median"]]
        return max((side["median"] for side in sides), default=0)

    peaks = fastest("products", ""), fastest("bandwidth", ROOF)
    if not all(peaks):
        check.report.failed("step", MOST, "no product or no copy was measured")
        return
    seconds = {}
    for line in lines:
        least = line["count"] * max(line["flops"] / peaks[0] / 1e12, line["bytes"] / peaks[1] / 1e9)
        seconds[line["operation"]] = seconds.get(line["operation"], 0) + least
    longest = sorted(seconds, key=seconds.get, reverse=True)[:6]
    note = "%.0f TFLOP/s, %.0f GB/s; " % peaks
    note += ", ".join("%s %.1f ms" % (name, 1e3 * seconds[name]) for name in longest)
    check.report.measured("step", MOST, [tokens / sum(seconds.values())], note=note)


def switched(check, log, deadline, ask, tokens, name, switch):
    """Without what a newer card has: what that is worth in the whole."""
    if check.number is None or deadline - time.monotonic() < 15:
        check.report.failed("step", name, "no card" if check.number is None else "no time left")
        return
    other = check.contestant(switch, check.ours.command, log)
    other.env = dict(check.env, TERRARIUM_CUDA=switch)
    made = other.ask(ask, seconds_left(deadline, 30))
    times = made if wrong(made) else other.ask("step 4", seconds_left(deadline, 30))
    other.close()
    if wrong(times):
        check.report.failed("step", name, wrong(times))
    else:
        check.report.measured("step", name, [tokens / seconds for seconds in times[2:]])


# ---- behind the glass: the broker, scores, hostile guests, the tax

LEVELS = ["namespaces", "minimal", "none"]


def start_broker(check, log):
    """The broker of the device, once for all sections."""
    if check.broker_socket:
        return check.broker_socket
    socket = check.work / "broker.sock"
    config = check.work / "broker.toml"
    config.write_text(
        # A step of gpt-h100 is one slice: nobody else is there to take turns.
        "hung_ms = 30000\nslice_fuel = %d\n[default]\nbytes = %d\nlaunch_fuel = %d\n" % (1 << 48, 70 << 30, 1 << 50)
    )
    command = [check.program("terrarium"), "broker", "--device", check.device, "--socket", socket, "--config", config]
    said = open(check.logs / "owner.log", "w")
    log.write("$ %s\n" % " ".join(map(str, command)))
    log.flush()
    check.broker = subprocess.Popen(
        [str(word) for word in command], env=check.env, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        start_new_session=True,
    )
    for _ in range(300):
        text = (check.logs / "owner.log").read_text(errors="replace")
        if "(process " in text:
            check.broker_socket = socket
            return socket
        if check.broker.poll() is not None:
            break
        time.sleep(0.1)
    stop_broker(check)
    raise Skip("the broker did not start: %s" % text.strip()[-300:])


def stop_broker(check):
    if getattr(check, "broker", None) is not None:
        kill(check.broker)
    check.broker, check.broker_socket = None, None


def evaluate(check, log, deadline, task, wasm, *more, seconds=60, broker=True):
    """The object that `terrarium eval` prints, or None. Where this machine
    does not reach an isolation level, the first evaluation takes a lower one."""
    where = ["--broker", check.broker_socket] if broker else []
    while True:
        level = LEVELS[getattr(check, "level", 0)]
        command = [
            check.program("terrarium"), "eval", task, "--wasm", BUNDLE / "guests" / wasm,
            "--data", BUNDLE / "text", "--require-isolation", level, "--json", *where, *more,
        ]
        status, text = run(command, seconds_left(deadline, seconds), log, check.env)
        lines = [line for line in text.splitlines() if line.startswith("{")]
        if lines:
            check.report.data["machine"]["isolation"] = level
            try:
                return json.loads(lines[-1])
            except ValueError:
                return None
        if status == 4 and getattr(check, "level", 0) + 1 < len(LEVELS) and getattr(check, "first_eval", True):
            check.level = getattr(check, "level", 0) + 1
            continue
        return None
    # Only the first evaluation looks for a level.


@declares
def declare_glass(check):
    check.report.declare("score", "val_bpb of the small preset, on the device", "bits/byte")
    check.report.declare("score", "two runs of one seed: the same bits", "runs")
    check.report.declare("hostile", "hostile guests held", "guests")


def score(check, log, deadline):
    check.need_card()
    start_broker(check, log)
    fuel = ["--limit", "device_fuel=9000000000"] if check.small else []
    seeds = [1] if check.small else [1, 2, 3]
    device, cpu = [], []
    for seed in seeds:
        for broker, scores in ((True, device), (False, cpu)):
            if late(deadline):
                break
            found = evaluate(check, log, deadline, "gpt", "gpt.wasm", "--seed", str(seed), *fuel, broker=broker)
            check.first_eval = False
            if found and found["score"] is not None:
                scores.append(found["score"])
            elif found:
                log.write("seed %d ended as %s\n" % (seed, json.dumps(found["outcome"])))
    bad = None
    if device:
        peer, values = ("the CPU device, the same seeds", cpu) if cpu else ("none: no evaluation on the CPU", None)
        gap = ""
        if len(device) == len(cpu) and len(cpu) > 1:
            gaps = [a - b for a, b in zip(device, cpu)]
            gap = "mean gap %.2e, of one seed %.2e; over seeds the score moves by %.2e" % (
                statistics.mean(gaps), max(map(abs, gaps)), max(cpu) - min(cpu))
        check.report.measured("score", "val_bpb of the small preset, on the device", device, peer, values, note=gap)
    else:
        bad = "no evaluation on the device ended with a score"
    again = evaluate(check, log, deadline, "gpt", "gpt.wasm", "--seed", "1", *fuel) if device else None
    name = "two runs of one seed: the same bits"
    if again and again["score"] is not None:
        same = again["score"] == device[0]
        if same:
            check.report.measured("score", name, [2])
        else:
            check.report.failed("score", name, "they differ: %r and %r" % (device[0], again["score"]))
            bad = "two runs of one seed differ"
    return ("failed", bad) if bad else None


def hostile(check, log, deadline):
    check.need_card()
    start_broker(check, log)
    listed = json.loads((BUNDLE / "guests" / "hostile.json").read_text())
    if check.small:
        listed = listed[:3]
    held, breaches, tried = 0, [], 0
    for guest in listed:
        if deadline - time.monotonic() < 8:
            break
        limits = [word for pair in guest["limits"] for word in ("--limit", pair)]
        found = evaluate(check, log, deadline, str(BUNDLE / "templates" / "hostile"), guest["wasm"], *limits, seconds=25)
        check.first_eval = False
        tried += 1
        code = found["outcome"]["code"] if found else "nothing"
        said = json.dumps(found) if found else ""
        wanted = guest.get("score")
        if code == "finished" and wanted is not None and abs((found.get("score") or 0) - wanted) > 1e-6:
            code = "finished with %r instead of %r" % (found.get("score"), wanted)
        spoke = [text for text in guest["never"] if found and text in (found.get("log") or "")]
        if code in guest["expect"] and not spoke:
            held += 1
        else:
            breaches.append("%s: %s instead of %s %s" % (guest["name"], code, "|".join(guest["expect"]), spoke or ""))
            log.write("NOT HELD: %s\n%s\n" % (breaches[-1], said[:2000]))
    good = evaluate(check, log, deadline, str(BUNDLE / "templates" / "hostile"), "uniform.wasm", seconds=25)
    if not good or good["outcome"]["code"] != "finished":
        breaches.append("the honest guest after them: %s" % (good["outcome"] if good else "nothing"))
    owners = (check.logs / "owner.log").read_text(errors="replace").count("(process ")
    note = "of %d tried, of %d; the device's owner was started %d times" % (tried, len(listed), owners)
    check.report.measured("hostile", "hostile guests held", [held], note=note)
    return ("failed", "; ".join(breaches)[:1500]) if breaches else None


def tax(check, log, deadline):
    check.need_card()
    start_broker(check, log)
    bad = None
    whole = "gpt-h100 with bytes: in the glass beside native"
    if not check.small:
        bad = glass_beside_native(check, log, deadline, whole)
    else:
        check.report.failed("tax", whole, "not at these sizes")
    names = {"tax": "gpt (small preset), through the broker", "tax_large": "gpt, larger, through the broker"}
    if deadline - time.monotonic() < 45:
        for name in names.values():
            check.report.failed("tax", name, "no time left: it trains for 38 s")
        return ("failed", bad) if bad else None
    level = LEVELS[getattr(check, "level", 0)]
    command = [
        check.program("terrarium"), "bench", "tax", "--wasm", BUNDLE / "guests" / "gpt.wasm",
        "--broker", check.broker_socket, "--data", BUNDLE / "text", "--repeat", "1",
        "--require-isolation", level, "--json",
    ]
    status, text = run(command, seconds_left(deadline, 60), log, check.env)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        return "failed", bad or "bench tax printed nothing (status %s)" % status
    for figure in json.loads(lines[-1])["figures"]:
        if figure["name"] in names:
            check.report.measured("tax", names[figure["name"]], [figure["median"]])
    return ("failed", bad) if bad else None


def glass_beside_native(check, log, deadline, name):
    """The baseline's size trained in the sandbox through the broker, and by
    the same kernels natively. Bytes: the corpus has no other tokens."""
    rows, parts, _, time_, _, _, _ = step_shape(check)
    tokens = rows * time_
    made = check.ours.ask("model %d %d %d 256" % (rows, parts, time_), seconds_left(deadline, 30))
    native = made if wrong(made) else check.ours.ask("step 12", seconds_left(deadline, 20))
    # Its memory has to go before the guest's comes.
    check.ours.close()
    if wrong(native):
        check.report.failed("tax", name, wrong(native))
        return wrong(native)
    found = evaluate(
        check, log, deadline, "gpt-h100", "gpt-h100.wasm", "--knob", "batch_parts=%d" % parts,
        "--limit", "train_wall_ms=10000", "--limit", "wall_ms=60000", seconds=60,
    )
    check.first_eval = False
    try:
        steps = [m for m in found["metrics"] if m["name"] == "steps"][-1]["value"]
        took = found["timing"]["evaluation"]["train_us"] / 1e6
    except (TypeError, KeyError, IndexError):
        why = "the guest ended as %s" % (json.dumps(found["outcome"])[:200] if found else "nothing")
        check.report.failed("tax", name, why)
        return why
    note = "%d steps in %.1f s of `train`, recording included" % (steps, took)
    natively = [tokens / seconds for seconds in native[2:]]
    check.report.measured("tax", name, [steps * tokens / took], "the same kernels, native", natively, note=note)
    return None


# ---- tests of the broker on this machine, and compute-sanitizer


@declares
def declare_tests(check):
    check.report.declare("broker", "the broker's own tests (CPU device)", "tests passed")
    for name in SANITIZED:
        check.report.declare("sanitizer", name, "errors found")


SANITIZED = [
    "tensor_cores::",
    "rows::every_function",
    "rows::in_place_softmax",
    "matrices::",
    "models::",
]


def broker(check, log, deadline):
    if check.no_card and check.number is not None:
        raise Skip(check.no_card)
    env = dict(check.env, TERRARIUM_TEST_CELL=str(check.program("terrarium")))
    command = [check.program("broker-tests"), "--test-threads=2"]
    if check.small:
        command.append("results_and_refusals")
    status, text = run(command, seconds_left(deadline, 60), log, env)
    passed = len(re.findall(r"^test .* \.\.\. ok$", text, re.M))
    failed = re.findall(r"^test (\S+) \.\.\. FAILED$", text, re.M)
    if status == 0 and passed:
        check.report.measured("broker", "the broker's own tests (CPU device)", [passed])
        return None
    why = "out of time" if status is None else "FAILED: " + ", ".join(failed)
    check.report.failed("broker", "the broker's own tests (CPU device)", why)
    return "failed", why


def sanitizer(check, log, deadline):
    check.need_card()
    if check.number is None:
        raise Skip("there is no card to sanitize")
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        raise Skip("no compute-sanitizer on the path or in /usr/local/cuda/bin")
    bad = []
    for name in SANITIZED:
        if deadline - time.monotonic() < 8:
            break
        before = [tool, "--tool", "memcheck", "--error-exitcode", "99", "--print-limit", "20"]
        passed, failed, status = tests(check, log, name, seconds_left(deadline, 40), before)
        if status == 0 and passed:
            check.report.measured("sanitizer", name, [0], note="%d tests" % passed)
        else:
            why = "out of time" if status is None else "errors: see the log (status %d)" % status
            if status is not None:
                bad.append("%s: %s" % (name, why))
            check.report.failed("sanitizer", name, why)
    return ("failed", "; ".join(bad)) if bad else None
