"""How long the tools of `terrarium mcp` take on a run of many candidates: the
first call, which reads the archive, and those after it.

Usage: python3 tests/peers/mcp_large.py [CANDIDATES]    (100000)

`terrarium bench loop` makes the run first. No tool but at its first call may
take longer than a fifth of a second (median).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TERRARIUM = ROOT / "target/release/terrarium"
MOST_S, CALLS = 0.2, 20


class Client:
    def __init__(self, run):
        pipe = subprocess.PIPE
        self.server = subprocess.Popen([TERRARIUM, "mcp", run], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.number = 0
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        self.request("initialize", hello)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message):
        self.server.stdin.write(json.dumps(message).encode() + b"\n")
        self.server.stdin.flush()

    def request(self, method, params):
        self.number += 1
        self.send({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        while True:
            answer = json.loads(self.server.stdout.readline())
            if answer.get("id") == self.number:
                return answer["result"]

    def call(self, tool, **arguments):
        begun = time.monotonic()
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        took = time.monotonic() - begun
        if result.get("isError"):
            raise RuntimeError(f"{tool}: {result['content'][0]['text']}")
        return took, result["structuredContent"]

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def main():
    candidates = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as home:
        run = Path(home, "run")
        begun = time.monotonic()
        command = [TERRARIUM, "bench", "loop", "--candidates", str(candidates), "--out", run]
        subprocess.run(command, check=True, capture_output=True)
        took = time.monotonic() - begun
        client = Client(run)
        first, state = client.call("read_task")
        print(f"{state['candidates']:,} candidates in {took:.0f} s; the first call of mcp: {first:.2f} s")
        best = client.call("leaderboard", limit=1)[1]["rows"][0]["candidate"]
        late = client.call("leaderboard", limit=1, order="latest")[1]["rows"][0]["candidate"]
        slow = False
        for tool, arguments in [
            ("read_task", {}),
            ("leaderboard", {"limit": 20}),
            ("leaderboard", {"limit": 100, "order": "latest"}),
            ("read_candidate", {"candidate": best}),
            ("read_candidate", {"candidate": late[:12]}),
            ("diff", {"candidate": late, "against": best}),
        ]:
            times = [client.call(tool, **arguments)[0] for _ in range(CALLS)]
            slow |= statistics.median(times) > MOST_S
            shown = " ".join(f"{key}={str(value)[:12]}" for key, value in arguments.items())
            print(f"  {tool:<15} {shown:<36} {statistics.median(times) * 1e3:>7.1f} ms, at most {max(times) * 1e3:.1f}")
        client.close()
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
