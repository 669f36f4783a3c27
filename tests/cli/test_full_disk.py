"""A disk that fills up while a sweep runs, by a limit on the size of any file, which fails as a full disk does."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = """
import resource, sys
from memlaw_jax.cli.main import main
from memlaw_jax.models import load_base
load_base(sys.argv[1])  # what is imported late is there before the limit is
import memlaw_jax.training, memlaw_jax.training.logging, memlaw_jax.analysis.figures, tensorboardX
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[3:]))
"""


def test_a_full_disk_stops_a_sweep_with_one_sentence(
    config: Path, tiny_dir: Path, tmp_path: Path, python: str, child_environment: dict[str, str]
) -> None:
    """The curves are the first to outgrow it. A sweep that waits for ever is the worst that could come of that."""
    environment = {key: value for key, value in child_environment.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    arguments = [
        "sweep",
        str(config),
        "lengths=[12]",
        "optim.steps=200",
        "steps_per_dispatch=1",
        "--out",
        str(tmp_path),
    ]
    try:
        child = subprocess.run(
            [python, "-c", SCRIPT, str(tiny_dir), "8192", *arguments, "--json"],
            env=environment, capture_output=True, text=True, timeout=45,
        )  # fmt: skip
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"it hangs: {(hung.stderr or b'').decode()[-2000:]}") from None
    assert "Traceback" not in child.stderr, child.stderr
    assert child.returncode in (0, 2)  # going on without curves would do as well
    if child.returncode == 2:
        *said, last = child.stderr.strip().splitlines()
        assert last.startswith("memlaw: error: ") and str(tmp_path) in last
        assert all(line.startswith("memlaw: warning: ") for line in said)
