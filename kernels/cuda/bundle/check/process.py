"""Programs of the bundle, started so that none can hold the check up.

Everything that a program says goes to a log as well. A program that does not
end is killed with its process group and given up if even that does not help
(a process that waits for a hung card cannot be killed).
"""

import json
import os
import select
import signal
import subprocess
import time


def kill(process):
    """Ends a process group; never waits long."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except (OSError, ProcessLookupError):
            pass
        try:
            process.wait(timeout=3)
            return True
        except subprocess.TimeoutExpired:
            continue
    return False


def run(command, seconds, log, env=None):
    """(exit status or None, standard output); None: out of time, or it could
    not be started. Standard error goes to the log, and the output too."""
    log.write("$ %s\n" % " ".join(map(str, command)))
    log.flush()
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        log.write("cannot be started: %s\n" % error)
        return None, ""
    reader = Lines(process.stdout)
    status = None
    while True:
        left = seconds - (time.monotonic() - start)
        if left <= 0:
            break
        if not reader.more(min(left, 0.5)):
            try:
                status = process.wait(timeout=max(0.1, left))
            except subprocess.TimeoutExpired:
                pass
            break
    if status is None:
        log.write("out of time after %.0f s\n" % seconds)
        kill(process)
    process.stdout.close()
    text = reader.text()
    log.write(text)
    log.write("[status %s, %.1f s]\n" % (status, time.monotonic() - start))
    log.flush()
    return status, text


class Lines:
    """What comes out of a pipe, with time-outs."""

    def __init__(self, pipe):
        self.descriptor = pipe.fileno()
        self.bytes = b""

    def more(self, seconds):
        """Waits for more; False at the end of the pipe."""
        ready, _, _ = select.select([self.descriptor], [], [], seconds)
        if not ready:
            return True
        chunk = os.read(self.descriptor, 1 << 16)
        self.bytes += chunk
        return bool(chunk)

    def text(self):
        return self.bytes.decode("utf-8", "replace")

    def line(self, deadline):
        """The next line; None: the end, or out of time."""
        while b"\n" not in self.bytes:
            left = deadline - time.monotonic()
            if left <= 0 or not self.more(min(left, 0.5)):
                return None
        line, self.bytes = self.bytes.split(b"\n", 1)
        return line.decode("utf-8", "replace")


class Contestant:
    """A program that answers one question a line with one JSON a line. One
    that ends or does not answer in time is started anew for the next."""

    def __init__(self, name, command, log, env=None):
        self.name, self.command, self.log, self.env = name, command, log, env
        self.process = None

    def begin(self, question):
        """Sends a question without waiting for the answer."""
        if self.process is None:
            self.log.write("$ %s\n" % " ".join(map(str, self.command)))
            self.log.flush()
            self.process = subprocess.Popen(
                [str(word) for word in self.command],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                start_new_session=True,
            )
            self.lines = Lines(self.process.stdout)
        self.log.write("%s? %s\n" % (self.name, question))
        self.log.flush()
        self.process.stdin.write((question + "\n").encode())
        self.process.stdin.flush()

    def end(self, seconds):
        """The answer to the question before: an object, list or text; or
        {"error": why}."""
        if self.process is None:
            return {"error": "it is not running"}
        deadline = time.monotonic() + seconds
        while True:
            line = self.lines.line(deadline)
            if line is None:
                late = time.monotonic() >= deadline
                why = "no answer in %.0f s" % seconds if late else "it ended (see the log)"
                self.close()
                self.log.write("%s: %s\n" % (self.name, why))
                return {"error": why}
            try:
                answer = json.loads(line)
            except ValueError:
                # A library that talks on standard output.
                self.log.write("%s says: %s\n" % (self.name, line))
                continue
            self.log.write("%s: %s\n" % (self.name, line[:2000]))
            self.log.flush()
            return answer

    def ask(self, question, seconds):
        try:
            self.begin(question)
        except OSError as error:
            self.close()
            return {"error": "%s: %s" % (self.name, error)}
        return self.end(seconds)

    def close(self):
        if self.process is not None:
            kill(self.process)
            for pipe in (self.process.stdin, self.process.stdout):
                try:
                    pipe.close()
                except OSError:
                    pass
        self.process = None


def wrong(answer):
    """Why an answer is none, or None."""
    return answer["error"] if isinstance(answer, dict) and "error" in answer else None
