"""PyTorch for the comparisons: installed once, into target/peers.

`ensure()` returns when `import torch` works, restarting the script in the
environment where it does; where it cannot be had it prints one line that says
so and leaves with status 0, so that a machine without it skips.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("TERRARIUM_PEERS", ROOT / "target" / "peers")) / "torch"


def skip(why):
    print(f"skipped: no PyTorch here ({why})", flush=True)
    sys.exit(0)


def ensure():
    try:
        import torch  # noqa: F401
        import numpy  # noqa: F401

        return
    except ImportError:
        pass
    python = VENV / "bin" / "python"
    if Path(sys.prefix) == VENV:
        skip(f"it was installed into {VENV} and does not start")
    ready = VENV / "installed"
    if not ready.exists():
        print(f"installing PyTorch into {VENV} (once, several gigabytes)", file=sys.stderr, flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, capture_output=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "torch", "numpy"]
            subprocess.run(pip, check=True, capture_output=True, timeout=1800)
        except (subprocess.SubprocessError, OSError) as error:
            detail = getattr(error, "stderr", b"") or b""
            last = detail.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
            skip(last[0])
        ready.touch()
    os.execv(str(python), [str(python), *sys.argv])
