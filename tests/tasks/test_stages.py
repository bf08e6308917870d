import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import Qwen2Config, Qwen2ForCausalLM

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.envs.core.panels import build_panel, load_panel
from qlass.errors import QlassError, ReplayDivergence
from qlass.jsonl import read_json, read_records, write_json, write_records
from qlass.labels import label_tree, read_labels
from qlass.models.folders import load_policy
from qlass.records import Cost, ExplorationTree, Node, Step, TaskSpec, Trajectory
from tasks.playing import demonstrate
from tasks.playing.episodes import searching
from tasks.playing.rollouts import EnvSpec
from tasks.project import paths, settings
from tasks.stages import expert, report
from tasks.stages.source import described
from tests.tasks.conftest import NO_OVERRIDES, REPOSITORY
from tests.tasks.test_settings import SERVER

Stage = Callable[..., tuple[int, str]]
Params = Callable[[dict[str, Any]], None]
OPTIONS = {"length": 5, "rooms": 3}


@pytest.fixture
def corridor() -> Iterator[TextEnv]:
    env = make_env(get_definition("corridor"), OPTIONS, 12)
    yield env
    env.close()


@pytest.fixture
def spec() -> TaskSpec:
    return build_panel(get_definition("corridor"), OPTIONS, "train", 1, 0).tasks[0]


class Forgetful(TextEnv):
    """Wraps an engine and changes one observation."""

    def __init__(self, env: TextEnv, number: int) -> None:
        self.env, self.left = env, number

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        return self.env.reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        observation, *rest = self.env.step(action)
        self.left -= 1
        return (f"{observation}!" if self.left == 0 else observation, *rest)  # type: ignore[return-value]

    def snapshot(self) -> Snapshot:
        return self.env.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self.env.restore(snapshot)

    def close(self) -> None:
        self.env.close()


def test_an_expert_episode_is_played_and_verified(corridor: TextEnv, spec: TaskSpec) -> None:
    played = demonstrate.play(corridor, get_definition("corridor"), spec, seed=0, thoughts=True)
    assert (played.success, played.outcome, played.source) == (True, 1.0, "expert")
    assert played.steps[0].thought
    demonstrate.verify(corridor, spec, played)
    silent = demonstrate.play(corridor, get_definition("corridor"), spec, seed=0, thoughts=False)
    assert silent.steps == tuple(replace(step, thought="") for step in played.steps)


@pytest.mark.parametrize("number", [1, 2])
def test_another_observation_is_a_divergence(corridor: TextEnv, spec: TaskSpec, number: int) -> None:
    played = demonstrate.play(corridor, get_definition("corridor"), spec, seed=0, thoughts=True)
    with pytest.raises(ReplayDivergence, match=rf"corridor/train/00000: replay of step {number} gives"):
        demonstrate.verify(Forgetful(corridor, number), spec, played)


def test_the_expert_stage_writes_table_1(project: Path, stage: Stage) -> None:
    code, log = stage("expert", "corridor")
    assert code == 0, log
    stats = read_json(project / paths.expert_stats("corridor"))
    assert stats["tasks"] == {"train": 24, "dev": 8, "test_seen": 16, "test_unseen": 16}
    assert (stats["success_rate"], stats["trajectories"]) == (100.0, 24)
    assert {row["played"] for row in stats["by_category"].values()} == {8}
    trajectories = read_records(project / paths.trajectories("corridor"), Trajectory)
    assert stats["mean_turns"] == sum(len(one.steps) for one in trajectories) / 24
    train = load_panel(project / paths.panel("corridor", "train"))
    assert [one.task_id for one in trajectories] == [task.task_id for task in train.tasks]


def test_an_expert_that_solves_nothing_is_an_error(project: Path, params: Params, stage: Stage) -> None:
    params({"envs.corridor.max_steps": 1})
    code, log = stage("expert", "corridor")
    assert code == 3
    assert "none of 24 tasks solved; raise envs.corridor.max_steps?" in log
    assert not (project / "data").exists()


def test_statistics_count_failures(spec: TaskSpec, corridor: TextEnv) -> None:
    played = demonstrate.play(corridor, get_definition("corridor"), spec, seed=0, thoughts=True)
    panels = {"train": build_panel(get_definition("corridor"), OPTIONS, "train", 2, 0)}
    other = replace(played, task_id=panels["train"].tasks[1].task_id, success=False)
    stats = expert.statistics(panels, [played, other])
    assert (stats["played"], stats["trajectories"], stats["success_rate"]) == (2, 1, 50.0)
    assert stats["mean_turns"] == len(played.steps)
    assert stats["by_category"]["fetch"] == {"played": 1, "trajectories": 0, "success_rate": 0.0, "mean_turns": 0.0}


def test_the_base_stage_copies_a_folder(project: Path, stage: Stage, tiny_policy: Path) -> None:
    shutil.copytree(tiny_policy, project / "models" / "reader-3m")
    (project / "models" / "reader-3m" / "optimizer.pt").write_bytes(b"a pickle")
    code, log = stage("base")
    assert code == 0, log
    copied = {file.name: file.read_bytes() for file in (project / paths.BASE_POLICY).iterdir()}
    assert copied == {file.name: file.read_bytes() for file in tiny_policy.iterdir()}


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        ("weights", 7, "found config.json without weights; fetch model.safetensors"),
        ("text", 7, "model.safetensors: found a pointer of Git LFS instead of the file; run `git lfs pull`"),
        ("base.chat_format", 7, "has no token '<s>'"),
        ("folder", 2, "base.source: found 'models/reader-3m': no such folder"),
    ],
)
def test_a_base_policy_that_cannot_work_is_refused(
    project: Path, params: Params, stage: Stage, tiny_policy: Path, damage: str, code: int, message: str
) -> None:
    folder = project / "models" / "reader-3m"
    shutil.copytree(tiny_policy, folder)
    if damage == "weights":
        (folder / "model.safetensors").unlink()
    elif damage == "text":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    elif damage == "folder":
        shutil.rmtree(folder)
    else:
        params({damage: "llama-2"})
    found, log = stage("base")
    assert found == code, log
    assert message in log


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"model_type": "qwen2"}, 7, "model_type: found 'qwen2'; the local engine runs models with 'llama'"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            7,
            "rope_type: found 'dynamic'; the local engine",
        ),
        (
            {"max_position_embeddings": 2048},
            2,
            "base.max_length: found 2560; allowed: 1 to 2048, the positions of the",
        ),
    ],
)
def test_what_the_engine_cannot_run_is_refused_before_training(
    project: Path, params: Params, stage: Stage, tiny_policy: Path, changes: dict[str, Any], code: int, message: str
) -> None:
    """It passed here and in `sft`, and ended `explore` hours later."""
    config = shutil.copytree(tiny_policy, project / "models" / "reader-3m") / "config.json"
    write_json(config, read_json(config) | changes)
    found, log = stage("base")
    assert found == code, log
    assert message in log
    assert not (project / paths.BASE_POLICY).exists()


def test_who_trains_only_needs_no_engine(
    project: Path, params: Params, stage: Stage, tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path
) -> None:
    """A server runs the policy, and no method asks a QNet: other architectures go all the way."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=320,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            eos_token_id=3,
        )
    )
    folder = Path(shutil.copytree(tiny_policy, tmp_path_factory.mktemp("qwen") / "model"))
    model.save_pretrained(folder)
    params({"base.source": str(folder), "inference.server": SERVER, "run.searches": ["greedy"]})
    assert stage("base")[0] == 0
    params({"run.searches": ["qlass"]})
    code, log = stage("base")
    assert code == 7
    assert "model_type: found 'qwen2'" in log


def test_a_hub_model_becomes_a_pinned_pointer(
    project: Path, params: Params, stage: Stage, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params({"base.source": "owner/name"})
    code, log = stage("base")
    assert code == 2
    assert "base.revision: found None; allowed: the 40 hexadecimal digits" in log
    params({"base.revision": "a1" * 20})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(project / "cache"))
    code, log = stage("base")
    assert code == 2
    assert "not whole in the local cache" in log
    snapshot = project / "cache" / "models--owner--name" / "snapshots" / ("a1" * 20)
    shutil.copytree(tiny_policy, snapshot)
    assert stage("base")[0] == 0
    pointer = {"source": "owner/name", "revision": "a1" * 20}
    assert read_json(project / paths.BASE_POLICY / "pointer.json") == pointer
    model, _ = load_policy(project / paths.BASE_POLICY)
    assert model.config.num_hidden_layers == 2, "what training reads"
    write_json(snapshot / "config.json", read_json(snapshot / "config.json") | {"hidden_act": "gelu"})
    code, log = stage("base")
    assert code == 7
    assert "hidden_act: found 'gelu'; the local engine" in log


@pytest.mark.parametrize("source", ["models/other", "owner/name", "s3://bucket/model"])
def test_a_source_that_is_none_is_refused_first(project: Path, params: Params, tiny_policy: Path, source: str) -> None:
    """The stage `source` runs at each `dvc repro`, before anything else."""
    (project / "models" / "other").mkdir(parents=True)
    params({"base.source": source})
    with pytest.raises(
        QlassError, match=r"found an empty folder|base.revision: found None|copy it into a folder first"
    ):
        described(source, None)
    shutil.copytree(tiny_policy, project / "models" / "other", dirs_exist_ok=True)
    assert "model.safetensors" in described("models/other", None)["files"]


def test_the_copy_is_no_source(project: Path, stage: Stage, tiny_policy: Path) -> None:
    """DVC removes it before the stage runs, and `source` runs before that."""
    shutil.copytree(tiny_policy, project / paths.BASE_POLICY)
    with pytest.raises(
        QlassError, match=r"base.source: found 'data/base/policy', where the stage `base` writes its copy"
    ):
        described(str(paths.BASE_POLICY), None)


def test_a_folder_in_the_home_folder(
    project: Path, params: Params, stage: Stage, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_policy.parent))
    params({"base.source": f"~/{tiny_policy.name}"})
    assert described(f"~/{tiny_policy.name}", None) == described(str(tiny_policy), None)
    code, log = stage("base")
    assert code == 0, log


def test_the_label_stage_labels_every_node(project: Path, stage: Stage) -> None:
    end = Step("", "enter", "a room", 1.0, True, False)
    nodes = (
        Node(0, -1, 1, Step("", "go west", "a door", 0.0, False, False), "expert"),
        Node(1, 0, 2, end, "expert"),
        Node(2, -1, 1, replace(end, reward=0.0), "expansion"),
    )
    tree = ExplorationTree("corridor/train/00000", "start", nodes, 0, 0, 0, False, Cost())
    flat = replace(tree, task_id="corridor/train/00001", nodes=(replace(nodes[2], node_id=0),))
    write_records(project / paths.trees("corridor"), [tree, flat], ExplorationTree)
    code, log = stage("label", "corridor")
    assert code == 0, log
    assert read_labels(project / paths.labels("corridor")) == [*label_tree(tree, 0.9), *label_tree(flat, 0.9)]
    found = read_json(project / paths.metrics("label", "corridor"))
    assert (found["trees"], found["labels"], found["flat_trees"], found["solved_trees"]) == (2, 4, 1, 1)


def test_the_report_leads_to_the_file_about_differences(project: Path, stage: Stage) -> None:
    """From where it lies; a copy of the page, as in MLflow, names the file."""
    shutil.copytree(REPOSITORY / "docs", project / "docs")
    code, log = stage("report")
    assert code == 0, log
    page = (project / paths.REPORT / "index.html").read_text()
    addresses = [address for address in re.findall(r'href="([^"#]+)', page) if not re.match(r"\w+:", address)]
    targets = [(project / paths.REPORT / address).resolve() for address in addresses]
    assert targets == [project / "docs" / "differences.md"]
    assert targets[0].is_file()
    assert "<code>docs/differences.md</code> in the repository" in page


def test_the_report_says_what_was_not_measured() -> None:
    """A server without log probabilities leaves Best-of-N by likelihood out."""
    given = settings.load_all(REPOSITORY / "params.yaml")
    run = given.run.model_copy(update={"policies": ("sft",), "searches": ("best_of_n", "qlass")})
    rows = {"sft", "best_of_n", "best_of_n_qnet", "best_of_n_likelihood", "qlass"}
    complete = report.notes(run, given.methods, rows)
    assert not any("not measured" in note for note in complete.values())
    assert report.notes(run, given.methods, ()) == complete  # nothing was played yet
    found = report.notes(run, given.methods, rows - {"best_of_n_likelihood"})
    addition = "; not measured, for want of log probabilities: best_of_n_likelihood"
    assert found == complete | {"best_of_n": complete["best_of_n"] + addition}


def test_a_method_plays_with_its_section_on_its_environment(project: Path, params: Params) -> None:
    params({"methods.qlass.proposals": 5, "envs.corridor.overrides.methods": {"best_of_n": {"rollouts": 6}}})
    given, folder = settings.load_all().on("corridor"), Path("policy")
    environment = EnvSpec("corridor", OPTIONS, 12)
    played = {name: searching(given, environment, name, folder, folder) for name in ("best_of_n", "qlass", "greedy")}
    assert played["qlass"].settings == given.methods["qlass"]
    assert played["qlass"].settings.model_dump()["proposals"] == 5
    assert played["best_of_n"].settings.model_dump()["rollouts"] == 6
    assert {name: setup.models.qnet for name, setup in played.items()} == {
        "best_of_n": folder,
        "qlass": folder,
        "greedy": None,  # asks for no values
    }


def test_the_report_says_what_was_played(project: Path, params: Params, stage: Stage) -> None:
    """The games, the engine, the model's revision, who played the policies, and where actions came from."""
    shutil.copytree(REPOSITORY / "docs", project / "docs")
    assert stage("report")[0] == 0
    page = (project / paths.REPORT / "index.html").read_text()
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.partition("</header>")[0])
    assert facts == [("base model", "models/reader-3m"), ("seed", "0")]
    server = {
        "base_url": "http://127.0.0.1:9/v1", "model": "other-{policy}", "api": "chat", "api_key_env": "",
        "concurrency": 1, "timeout_s": 1.0, "retries": 0, "request_per_seed": True, "logprobs": False, "version": "1",
    }  # fmt: skip
    given = {"max_steps": 30, "panel": dict.fromkeys(("train", "dev", "test_seen", "test_unseen"), 4)}
    options = {"data": "/games", "engine": "native", "wording": "move"}
    alfworld = {**given, "options": options, "overrides": {**NO_OVERRIDES}}
    listed = {**alfworld, "overrides": {**NO_OVERRIDES, "evaluate": {"candidates": "admissible"}}}
    params(
        {
            "run.envs": ["alfworld"],
            "envs.alfworld": listed,
            "base.source": "owner/name",
            "base.revision": "a1" * 20,
        }
    )
    assert stage("report")[0] == 0
    page = (project / paths.REPORT / "index.html").read_text()
    assert "<dt>actions on alfworld</dt><dd>chosen from the environment&#39;s own list</dd>" in page
    params({"envs.alfworld": alfworld, "inference.server": server})
    assert stage("report")[0] == 0
    page = (project / paths.REPORT / "index.html").read_text()
    results = (project / paths.REPORT / "results.md").read_text()
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page.partition("</header>")[0])
    assert facts == [
        ("base model", "owner/name at a1a1a1a1a1a1"),
        ("seed", "0"),
        ("policies played by", "a server, model other-{policy}"),
    ]
    for text in (page, results):
        assert "ALFWorld, native engine, original games (json_2.1.1)" in text
        assert "generated games" not in text
