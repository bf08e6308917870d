"""A stage of the toy project: `python toy.py STAGE ENV`. Copied beside its dvc.yaml; uses the standard library only.

TOY_FAIL names stages that fail with TOY_CODE, TOY_HANG stages that neither end nor print anything. Every call adds a line to
`calls.log`, which DVC does not know.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

stage, env = sys.argv[1:]
name = f"{stage}@{env}" if env != "-" else stage
where = Path("data", stage, "" if env == "-" else env)
where.mkdir(parents=True, exist_ok=True)

with Path("calls.log").open("a") as calls:
    names = ("QLASS_PARENT_RUN_ID", "QLASS_FLOW_RUN_ID", "MLFLOW_RUN_ID")
    calls.write(json.dumps({"stage": name, **{key: os.environ.get(key) for key in names}}) + "\n")

if name in os.environ.get("TOY_HANG", "").split():
    # A grandchild in a session of its own, as torchrun starts them.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("pids.tmp").write_text(f"{os.getpid()} {child.pid}")
    Path("pids.tmp").rename("pids")
    time.sleep(600)
if name in os.environ.get("TOY_FAIL", "").split():
    print(f"about to fail: {name}", file=sys.stderr)
    sys.exit(int(os.environ.get("TOY_CODE", "3")))

print(f"making {name}")
params = Path("params.yaml").read_text().splitlines()
section = [line for line in params if line.strip().startswith(("width:", "gamma:")) and stage == "explore"]
if stage == "report":
    Path(where, "results.md").write_text("| method | reward |\n|---|---|\n| qlass | 0.9 |\n")
    Path(where, "index.html").write_text("<p>report</p>")
else:
    Path(where, "out.txt").write_text(f"{name} {section}")
pointer = Path("runs", stage, f"{env}.json") if env != "-" else Path("runs", f"{stage}.json")
pointer.parent.mkdir(parents=True, exist_ok=True)
pointer.write_text(json.dumps({"run_id": uuid.uuid4().hex, "experiment_id": "1"}))
