"""One rank of a training job: `python -m torch.distributed.run ... -m qlass.training.core.worker WORK_DIR`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch

from qlass import processes
from qlass.errors import QlassError
from qlass.jsonl import write_json
from qlass.training.core.jobs import execute, read_job


def main(work_dir: Path) -> int:
    """Run this rank's share of the job in a work folder; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # The supervisor of a launcher that dies ends its ranks. This is for the day when somebody kills the supervisor.
    processes.die_with_parent(os.getppid())
    try:
        job, rows, fingerprint = read_job(work_dir)
        if job.device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        execute(job, rows, work_dir, fingerprint)
    except QlassError as error:
        rank = os.environ.get("RANK", "0")
        write_json(work_dir / f"error-{rank}.json", {"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
