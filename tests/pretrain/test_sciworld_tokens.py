"""The tokenizer of the reader of ScienceWorld, and what its model starts from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from pretrain.sciworld.corpus import Turn, Walk, tell
from pretrain.sciworld.exercises import draw
from pretrain.sciworld.tokens import QUESTIONS, codes_of, train_tokenizer
from pretrain.sciworld.world import Visit
from pretrain.train import RECIPES, encode, new_model
from qlass.envs.sciworld import DEFINITION
from qlass.prompts import load_chat_format
from qlass.records import Message
from tests.pretrain.test_train import SHAPE
from tests.pretrain.tokenizers import saved, words

TASK = (
    "Your task is to measure the temperature of unknown substance B, which is located around the kitchen. First, focus "
    "on the thermometer. Next, focus on the unknown substance B. If the unknown substance B temperature is above -50.0 "
    "degrees celsius, place it in the blue box. If the unknown substance B temperature is below -50.0 degrees celsius, "
    "place it in the orange box. The boxes are located around the kitchen."
)
LISTING = (
    "This room is called the kitchen. In it, you see: \n\tthe agent\n\ta substance called air\n\ta baby wolf\n"
    "\ta blue box (containing nothing)\n\ta orange box (containing nothing)\n\ta counter. On the counter is: a bowl "
    "(containing a red apple, an orange), a drawer.\n\ta thermometer, currently reading a temperature of 10 degrees "
    "celsius\n\tunknown substance B\nYou also see:\n\tA door to the hallway (that is open)"
)
TURNS = (
    Turn("look around", LISTING),
    Turn("pick up thermometer", "You move the thermometer to the inventory."),
    Turn("pick up red apple", "No known action matches that input."),
    Turn("use thermometer on unknown substance b", "the thermometer measures a temperature of -30 degrees celsius"),
    Turn("focus on baby wolf", "You focus on the baby wolf."),
)
NUMBERS = {"coldest": -120, "warmest": 320}


@pytest.fixture(scope="module")
def conversations() -> list[list[Message]]:
    settings = {"questions": 8, "renamed": 0.2}
    told = (tell(Walk(TASK, TURNS), settings, random.Random(number)) for number in range(60))
    return [[Message(role, text) for role, text in messages] for messages in told]


@pytest.fixture(scope="module")
def tokenizer(conversations: list[list[Message]], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Return the tokenizer as the pipeline would read it from a folder."""
    made = train_tokenizer(conversations, {"pieces": 700, "word_count": 20, **NUMBERS})
    return saved(made, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("baby wolf", ["\n\ta baby wolf\n", "focus on baby wolf", "You focus on the baby wolf.", "here? baby wolf, orange."]),
        (
            "unknown substance B",
            [
                "\n\tunknown substance B\n",
                "pick up unknown substance b",
                "Do I have unknown substance b? yes.",
                "If the unknown substance B temperature is above -50.0 degrees celsius, place it in the blue box.",
                "located around the kitchen. Next, focus on the unknown substance B.",
            ],
        ),
        ("red apple", ["(containing a red apple, an orange)", "pick up red apple", "Is red apple here? yes."]),
        ("orange", ["a red apple, an orange)", "pick up orange", "Do I have orange? no."]),
        ("-50", ["temperature is above -50.0 degrees celsius, place it", "Is -30 above -50? yes.", "measures a temperature of -50 degrees"]),
        ("orange box", ["\n\ta orange box (containing nothing)", "move baby wolf to orange box", "place it in the orange box."]),
    ],
)  # fmt: skip
def test_a_name_is_the_same_tokens_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast, name: str, texts: list[str]
) -> None:
    tokens = tokenizer.encode(f" {name}")
    for text in texts:
        ids = tokenizer.encode(text)
        assert any(ids[at : at + len(tokens)] == tokens for at in range(len(ids))), (text, words(tokenizer, text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Which animals are here? baby wolf.", ["Which animals are here?", " baby", " wolf", "."]),
        ("\nYou also see:\n\tA door to the hallway (that is open)", ["\nYou also see:\n\tA door to the", " hallway", " (that is open)"]),
        ("You teleport to the kitchen.", ["You teleport to the", " kitchen", "."]),
        ("No known action matches that input.", ["No known action matches that input."]),
        ("Action: look around", ["Action: ", "look around"]),
        ("Action: focus on thermometer", ["Action: ", "focus on", " thermometer"]),
        (" -30 degrees celsius", [" -30", " degrees celsius"]),
    ],
)  # fmt: skip
def test_what_texts_have_in_common_is_one_token(
    tokenizer: PreTrainedTokenizerFast, text: str, parts: list[str]
) -> None:
    assert words(tokenizer, text) == parts


def test_every_question_without_a_name_is_one_token() -> None:
    visit = Visit(TASK)
    for action, text in TURNS:
        visit.read(action, text)
    rng = random.Random(1)
    asked = {draw(visit, rng).question for _ in range(2000)}
    named = ("Is ", "Where is ", "Do I have ", "Did I go to ", "What is ")
    plain = {question for question in asked if not question.startswith(named)} | {"What is here?"}
    assert len(plain) >= 12
    assert plain <= set(QUESTIONS)


def test_texts_survive_but_for_the_letter_of_a_substance(
    tokenizer: PreTrainedTokenizerFast, conversations: list[list[Message]]
) -> None:
    for message in conversations[0]:
        read = message.content.replace("substance B", "substance b").replace("\tunknown", "\t unknown")
        assert tokenizer.decode(tokenizer.encode(message.content)) == read


def test_the_prompt_is_a_token_a_line(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode(DEFINITION.instruction)) <= 2 * len(DEFINITION.instruction.splitlines())


def test_refused_replies_have_no_loss(tokenizer: PreTrainedTokenizerFast, conversations: list[list[Message]]) -> None:
    chat = load_chat_format("qlass", tokenizer)
    refusals = RECIPES["sciworld"].refusals
    messages = conversations[0]
    (row,) = encode([messages], chat, 5000, 0.2, refusals)
    start = 0
    for message, answer, segment in zip(messages, [*messages[1:], None], chat.segments(tuple(messages)), strict=True):
        refused = message.role == "assistant" and answer is not None and answer.content.startswith(refusals)
        expected = 0.0 if refused else 1.0 if message.role == "assistant" else 0.2
        assert row.weights[start : start + len(segment)].tolist() == pytest.approx([expected] * len(segment))
        assert refused == (message.content.endswith("pick up red apple") and message.role == "assistant")
        start += len(segment)


def test_temperatures_near_each_other_start_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = new_model(SHAPE, tokenizer, codes_of(tokenizer))

    def alike(one: str, other: str) -> float:
        first, second = (
            model.model.embed_tokens.weight.detach()[tokenizer.encode(text)[0]][1:-64] for text in (one, other)
        )
        return float(torch.cosine_similarity(first, second, dim=0))

    assert alike(" -30", " -31") > alike(" -30", " 90") + 0.1
    assert alike(" 100", " 102") > alike(" 100", " -100") + 0.1


def test_the_model_fits() -> None:
    """Vocabulary of 3,500 at most: a model of some 5 million parameters, 15 MB at most in bf16."""
    params = RECIPES["sciworld"].params()
    shape = params["model"]
    assert shape["num_key_value_heads"] == 4
    layer = 4 * shape["hidden_size"] ** 2 + 3 * shape["hidden_size"] * shape["intermediate_size"]
    assert 2 * (shape["num_hidden_layers"] * layer + 2 * 3500 * shape["hidden_size"]) < 15e6
    assert params["train"]["max_length"] == 2560


def test_the_stages_have_what_they_read() -> None:
    stages = yaml.safe_load(Path("pretrain/dvc.yaml").read_text())["stages"]
    for stage, program in (("sciworld_corpus", "corpus"), ("sciworld_train", "tokens")):
        deps = stages[stage]["deps"]
        for line in Path(f"pretrain/sciworld/{program}.py").read_text().splitlines():
            if line.startswith("from pretrain."):
                path = f"{line.split()[1].replace('.', '/')}.py"
                assert path in deps, (stage, path)
