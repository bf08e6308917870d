"""One rank of a training job: `python -m torch.distributed.run ... -m qlass.training.core.worker WORK_DIR`."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

import torch

from qlass.errors import QlassError
from qlass.jsonl import write_json
from qlass.training.core.jobs import execute, read_job


def main(work_dir: Path) -> int:
    """Run this rank's share of the job in a work folder; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    threading.Thread(target=_end_with_parents, daemon=True).start()
    try:
        job, rows, fingerprint = read_job(work_dir)
        execute(job, rows, work_dir, fingerprint)
    except QlassError as error:
        rank = os.environ.get("RANK", "0")
        write_json(work_dir / f"error-{rank}.json", {"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _end_with_parents() -> None:
    """End this process when the launcher or the stage that started it is gone: killing either leaves ranks behind."""
    launcher, stage = os.getppid(), int(os.environ.get("QLASS_STAGE_PID", "0"))
    while True:
        time.sleep(1.0)
        try:
            if stage:
                os.kill(stage, 0)
        except ProcessLookupError:
            os._exit(1)
        if os.getppid() != launcher:
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
