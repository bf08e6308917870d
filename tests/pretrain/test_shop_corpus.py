"""The shop reader's corpus: every answer is checked against what its page says, or what the environment allows."""

import ast
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import pretrain.shop
from pretrain.shop import exercises
from pretrain.shop.corpus import Conversation, episodes
from pretrain.shop.recall import recall_conversation
from pretrain.shop.world import DEFAULT_SEED, open_world
from qlass.envs.webshop.adapter import normalise_action
from qlass.envs.webshop.generate import generate
from qlass.envs.webshop.generate.vocabulary import vocabulary
from qlass.envs.webshop.state import Shop, State
from qlass.envs.webshop.wishes import understand
from qlass.errors import SettingsError
from qlass.prompts import parse_reply

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

ID = r"B0[0-9A-Z]{8}"
SETTINGS = {"size": 300, "max_steps": 12, "questions": 12, "new_ids": False, "renamed": 0.0}
CATALOGUES = (1, 2)


@pytest.fixture(scope="module")
def by_catalogue() -> dict[int, list[Conversation]]:
    return {catalogue: list(episodes(SETTINGS, 5, catalogue, 60)) for catalogue in CATALOGUES}


@pytest.fixture(scope="module")
def played(by_catalogue: dict[int, list[Conversation]]) -> list[Conversation]:
    return [one for several in by_catalogue.values() for one in several]


@dataclass
class Page:
    """What the newest page shows, read from its text alone, and what was done before."""

    parts: list[str]
    before: list[str]  # actions
    texts: list[str]  # pages so far, this one included

    @property
    def instruction(self) -> str:
        return self.parts[self.parts.index("Instruction:") + 1]

    @property
    def hits(self) -> dict[str, tuple[str, float]]:
        """Title and lowest price by id."""
        rows = self.parts[self.parts.index("Next >") + 1 :]
        return {
            asin: (title, amounts(price)[0])
            for asin, title, price in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        }

    @property
    def title(self) -> str:
        return self.parts[self.place - 1]

    @property
    def place(self) -> int:
        return next(number for number, part in enumerate(self.parts) if part.startswith("Price: "))

    @property
    def values(self) -> list[str]:
        """Names and values of options, in the order of the page."""
        return self.parts[4 : self.place - 1]

    @property
    def body(self) -> list[str]:
        return self.parts[4:]


def amounts(text: str) -> list[float]:
    return [float(amount) for amount in re.findall(r"\d+(?:\.\d+)?", text)]


def pages(messages: Conversation):
    """Yield (number of an answer, the page that it is about)."""
    texts, actions = [], []
    for number, (role, text) in enumerate(messages):
        if role == "user" and "Instruction:" in text:
            texts.append(text)
        elif role == "assistant" and number not in messages.kinds:
            actions.append(parse_reply(text)[1])
        elif number in messages.kinds:
            yield number, Page([part.strip() for part in texts[-1].split("[SEP]")], list(actions), list(texts))


def says(name: str, text: str) -> bool:
    """Return whether a text states a property, by the words that products have for it."""
    (attribute,) = (one for one in vocabulary().attributes.values() if one.bare == name)
    return any(words in text.lower() for words in (attribute.bare, attribute.key))


def yes(right: bool) -> str:
    return "yes" if right else "no"


def listed(names) -> str:
    return ", ".join(names) or "none"


def short(amount: float) -> str:
    return f"{amount:g}"


def against(price: float, cap: float) -> str:
    return f"{short(price)}, {'below' if price < cap else 'not below'} {short(cap)}"


INSTRUCTION = {
    "What do you need?": lambda wish: listed(
        [wish.thing, *(q.name for q in wish.qualities), *wish.options, f"below {short(wish.cap)}"]
    ),
    "Which product do you need?": lambda wish: wish.thing,
    "Which properties do you need?": lambda wish: listed(q.name for q in wish.qualities),
    "Which options do you need?": lambda wish: listed(wish.options),
    "What may it cost?": lambda wish: f"below {short(wish.cap)}",
}
RESULTS = {
    "Which ids are listed?": lambda page, wish: listed(page.hits),
    r"Which id is number (\d+)\?": lambda page, wish, n: list(page.hits)[int(n) - 1],
    rf"Which id comes after ({ID})\?": lambda page, wish, a: [*page.hits, "none"][list(page.hits).index(a) + 1],
    rf"Is ({ID}) listed\?": lambda page, wish, a: yes(a in page.hits),
    r"Which id did you not open\?": lambda page, wish: next(
        (a for a in page.hits if a not in last_opened(page)), "none"
    ),
    rf"Is ({ID}) below the limit\?": lambda page, wish, a: against(page.hits[a][1], wish.cap),
    rf"Is ({ID}) below (\d+)\?": lambda page, wish, a, cap: against(page.hits[a][1], float(cap)),
    r"Which ids are below (\d+)\?": lambda page, wish, cap: listed(
        a for a, hit in page.hits.items() if hit[1] < int(cap)
    ),
    rf"What is the title of ({ID})\?": lambda page, wish, a: page.hits[a][0],
    r"Which id has the title (.+)\?": lambda page, wish, t: listed(a for a, hit in page.hits.items() if hit[0] == t),
    rf"Is (.+) in the title of ({ID})\?": lambda page, wish, name, a: yes(says(name, page.hits[a][0])),
    rf"Which of your properties are in the title of ({ID})\?": lambda page, wish, a: listed(
        q.name for q in wish.qualities if says(q.name, page.hits[a][0])
    ),
    r"Which ids have (.+) in the title\?": lambda page, wish, name: listed(
        a for a, hit in page.hits.items() if says(name, hit[0])
    ),
    r"Which page is it\?": lambda page, wish: re.match(r"Page (\d+)", page.parts[3])[1],
    r"How many results are there\?": lambda page, wish: re.search(r"results: (\d+)", page.parts[3])[1],
    r"What did you search for\?": lambda page, wish: last_query(page),
}
ITEM = {
    r"Is (.+) offered\?": lambda page, wish, value: yes(value in page.values),
    r"Which of your options are offered\?": lambda page, wish: listed(o for o in wish.options if o in page.values),
    r"What does it cost\?": lambda page, wish: " to ".join(map(short, amounts(page.parts[page.place]))),
    r"Is it below the limit\?": lambda page, wish: against(amounts(page.parts[page.place])[0], wish.cap),
    r"Is (.+) in the title\?": lambda page, wish, name: yes(says(name, page.title)),
    r"Which of your properties are in the title\?": lambda page, wish: listed(
        q.name for q in wish.qualities if says(q.name, page.title)
    ),
    r"Which product is open\?": lambda page, wish: last_opened(page)[-1],
}
SUB = {
    r"Is (.+) stated here\?": lambda page, wish, name: yes(any(says(name, text) for text in page.body)),
    r"Which of your properties are stated here\?": lambda page, wish: listed(
        q.name for q in wish.qualities if any(says(q.name, text) for text in page.body)
    ),
    r"Which text states (.+)\?": lambda page, wish, name: next(text for text in page.body if says(name, text)),
}
ANYWHERE = {
    r"Repeat the instruction\.": lambda page, wish: page.instruction,
    r"Do you need (.+)\?": lambda page, wish, name: yes(name in [q.name for q in wish.qualities]),
    r"Which products did you open\?": lambda page, wish: listed(dict.fromkeys(last_opened(page))),
    rf"Did you open ({ID})\?": lambda page, wish, a: yes(a in last_opened(page)),
}


def last_query(page: Page) -> str:
    return next(action[7:-1] for action in reversed(page.before) if action.startswith("search["))


def last_opened(page: Page) -> list[str]:
    return [action[6:-1] for action in page.before if re.fullmatch(rf"click\[{ID}\]", action)]


def expected(question: str, page: Page) -> str | None:
    """Return the answer that the text of the conversation gives; None for questions that only the shop can answer."""
    wish = understand(page.instruction)
    if question in INSTRUCTION:
        return INSTRUCTION[question](wish)
    place = RESULTS if page.parts[3].startswith("Page") else ITEM if page.parts[-1] == "Buy Now" else SUB
    for pattern, answer in (ANYWHERE if len(page.parts) < 5 else ANYWHERE | place).items():
        if found := re.fullmatch(pattern, question):
            return answer(page, wish, *found.groups())
    return None


FROM_TEXT = 34
"""Kinds of exercises that `expected` can answer."""


def test_answers_are_what_the_pages_say(played: list[Conversation]) -> None:
    checked: Counter[str] = Counter()
    for messages in played:
        for number, page in pages(messages):
            answer = expected(messages[number - 1][1], page)
            if answer is not None:
                assert messages[number][1] == answer, (page.texts[-1], messages[number - 1])
                checked[messages.kinds[number]] += 1
    assert len(checked) == FROM_TEXT
    assert min(checked.values()) >= 3


def replayed(shop: Shop, messages: Conversation, number: int) -> State:
    """Return where the shop stands at a message, by doing the actions again."""
    instruction = messages[1][1].split(" [SEP] ")[2]
    state = State(next(n for n, goal in enumerate(shop.goals) if goal.instruction == instruction))
    for place, (role, text) in enumerate(messages[:number]):
        if role == "assistant" and place not in messages.kinds:
            state = shop.apply(state, parse_reply(text)[1])
    return state


def told(question: str, shop: Shop, state: State) -> str | None:
    """Return the answer from the shop's own data, for what pages do not show or show without names."""
    goal, products = shop.goals[state.goal], shop.catalogue.by_asin
    open_product = products.get(state.asin)
    if question == "Which options did you choose?":
        return listed(dict(state.options).values())
    if question == "Which kinds of options are there?":
        return listed(dict(open_product.options))
    if asked := re.fullmatch(r"Which values of (.+) are offered\?", question):
        return listed(dict(open_product.options)[asked[1]])
    if asked := re.fullmatch(r"Which (.+) of these do you need\?", question):
        return listed(value for value in dict(open_product.options)[asked[1]] if value in goal.options)
    if asked := re.fullmatch(rf"What does ({ID}) cost\?", question):
        return " to ".join(map(short, amounts(products[asked[1]].price_text)))
    if asked := re.fullmatch(r"Can you click (.+)\?", question):
        return yes(f"click[{asked[1]}]".lower() in map(str.lower, shop.clicks(state)))
    if re.match(r"Which ids are a ", question):
        return listed(asin for asin in shop.listed(state) if products[asin].query == goal.query)
    if asked := re.fullmatch(rf"Is (it|{ID}) a .+\?", question):
        return yes((open_product if asked[1] == "it" else products[asked[1]]).query == goal.query)
    return None


def test_answers_are_what_the_shop_knows(by_catalogue: dict[int, list[Conversation]]) -> None:
    checked: Counter[str] = Counter()
    for catalogue, several in by_catalogue.items():
        shop = open_world(SETTINGS["size"], catalogue).shop
        for messages in several:
            for number, kind in messages.kinds.items():
                answer = told(messages[number - 1][1], shop, replayed(shop, messages, number))
                if answer is not None:
                    assert messages[number][1] == answer, (messages[:number], messages[number])
                    checked[kind] += 1
    assert len(checked) == 9
    assert min(checked.values()) >= 3


def test_what_was_seen_of_a_product_is_its_title_and_what_was_opened(played: list[Conversation]) -> None:
    asked = Counter()
    for messages in played:
        for number, page in pages(messages):
            if messages.kinds[number] == "which wanted properties were seen of the product":
                wish = understand(page.instruction)
                read = read_of(page)
                answer = listed(q.name for q in wish.qualities if any(says(q.name, text) for text in read))
                assert messages[number][1] == answer
                asked[answer == "none"] += 1
    assert min(asked.values()) >= 3


def read_of(page: Page) -> list[str]:
    """Return what the conversation showed of the open product: titles on its pages, texts of its sub pages."""
    texts, asin = {}, ""
    for action, text in zip(page.before, page.texts[1:], strict=True):
        asin = action[6:-1] if re.fullmatch(rf"click\[{ID}\]", action) else asin
        shown = Page([part.strip() for part in text.split("[SEP]")], [], [])
        if shown.parts[-1] == "Buy Now":
            texts.setdefault(asin, []).append(shown.title)
        elif action in ("click[features]", "click[description]"):
            texts.setdefault(asin, []).extend(shown.body)
    return texts[asin]


def test_every_kind_of_exercise_is_asked(played: list[Conversation]) -> None:
    every = (exercises.INSTRUCTION, exercises.RESULTS, exercises.ITEM, exercises.SUB, exercises.MEMORY)
    asked = Counter(kind for messages in played for kind in messages.kinds.values())
    assert set(asked) == {kind for kinds in every for kind in kinds}


def test_answers_of_yes_and_no_are_both_frequent(played: list[Conversation]) -> None:
    answers: dict[str, Counter[str]] = {}
    for messages in played:
        for number, kind in messages.kinds.items():
            if messages[number][1] in ("yes", "no"):
                answers.setdefault(kind, Counter())[messages[number][1]] += 1
    assert len(answers) == 10
    for kind, count in answers.items():
        assert min(count["yes"], count["no"]) > 0.12 * count.total(), (kind, count)


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    first, again, other = (list(episodes(SETTINGS, seed, 1, 4)) for seed in (5, 5, 6))
    assert first == again != other
    assert [one.kinds for one in first] == [one.kinds for one in again]


def test_replies_are_actions_in_normal_form_that_their_pages_offer(
    by_catalogue: dict[int, list[Conversation]],
) -> None:
    for catalogue, several in by_catalogue.items():
        shop = open_world(SETTINGS["size"], catalogue).shop
        for messages in several:
            for number, (role, text) in enumerate(messages):
                if role == "assistant" and number not in messages.kinds:
                    _, action, is_action = parse_reply(text)
                    assert is_action
                    assert re.fullmatch(rf"click\[{ID}\]|(click|search)\[[^A-Z]+\]", action)
                    assert shop.apply(replayed(shop, messages, number), action) is not None


@pytest.mark.parametrize(
    ("action", "normal"),
    [
        ("click[b0bw22s5if]", "click[B0BW22S5IF]"),
        ("click[Buy Now]", "click[buy now]"),
        ("search[B0BW22S5IF Soap]", "search[b0bw22s5if soap]"),
        ("search[b0bw22s5if]", "search[B0BW22S5IF]"),
        ("click[b0bw22s5]", "click[b0bw22s5]"),
    ],
)
def test_only_ids_have_capitals(action: str, normal: str) -> None:
    assert normalise_action(action) == normal


def test_no_product_of_the_default_catalogue_is_in_it(played: list[Conversation]) -> None:
    default = yaml.safe_load(Path("params.yaml").read_text())["envs"]["webshop"]["options"]
    assert default["seed"] == DEFAULT_SEED
    corpus_seeds = yaml.safe_load(Path("pretrain/params.yaml").read_text())["shop"]["corpus"]
    assert corpus_seeds["first_seed"] > DEFAULT_SEED
    products = generate(default["size"], DEFAULT_SEED).products
    ids = {product.asin for product in products}
    made_up = [recall_conversation(["mug", "tea"], random.Random(number)) for number in range(50)]
    text = " ".join(text for messages in [*played, *made_up] for _, text in messages)
    assert len(set(re.findall(ID, text))) > 500
    assert not ids & set(re.findall(ID, text))
    with pytest.raises(SettingsError, match="default run's"):
        open_world(SETTINGS["size"], DEFAULT_SEED)


def test_the_held_out_product_types_are_not_in_it(played: list[Conversation]) -> None:
    text = " ".join(text for messages in played for _, text in messages).lower()
    heads = {
        unseen: [head.lower() for kind in vocabulary().types if kind.unseen == unseen for head in kind.heads]
        for unseen in (False, True)
    }
    assert sum(head in text for head in heads[False]) > 0.5 * len(heads[False])
    assert not [head for head in heads[True] if " " in head and head in text]


def test_no_expert_and_no_reward_is_asked_for() -> None:
    """The corpus is written without the expert, its understanding of wishes, and what purchases are worth."""
    for path in Path(pretrain.shop.__file__).parent.glob("*.py"):
        if path.name == "measure.py":  # counts the tokens of the expert's episodes, and writes nothing
            continue
        names = {
            getattr(node, "attr", None) or getattr(node, "module", None) or getattr(node, "name", None)
            for node in ast.walk(ast.parse(path.read_text()))
        }
        assert not [name for name in names if name and re.search(r"expert|wishes|solvable|\breward|worth", name)]


def test_the_player_buys_at_random() -> None:
    """The expert gets everything that is asked for in nine of ten episodes."""
    ends = [messages[-1][1] for messages in episodes(SETTINGS | {"questions": 1}, 5, 1, 300)]
    scores = [float(re.search(r"max 1\.0\) \[SEP\] ([\d.]+)", end)[1]) for end in ends if "Your score" in end]
    assert len(scores) >= 20
    assert sum(score == 1.0 for score in scores) < 0.3 * len(scores)


def test_made_up_words_stand_wherever_the_words_stood() -> None:
    """Word by word, the two tell the same: each word has one other, or stays."""
    plain, renamed = (list(episodes(SETTINGS | {"renamed": share}, 5, 1, 20)) for share in (0.0, 1.0))
    changed = 0
    for before, after in zip(plain, renamed, strict=True):
        assert before[0] == after[0], "the system prompt"
        assert before.kinds == after.kinds
        names: dict[str, str] = {}
        for (role, old), (same, new) in zip(before, after, strict=True):
            assert role == same
            assert re.sub("[A-Za-z]+", "x", old) == re.sub("[A-Za-z]+", "x", new)
            for one, other in zip(re.findall("[A-Za-z]+", old), re.findall("[A-Za-z]+", new), strict=True):
                assert names.setdefault(one.lower(), other.lower()) == other.lower()
                assert one[0].isupper() == other[0].isupper()
        changed += any(one != other for one, other in names.items())
        assert len(set(names.values())) == len(names), "no two words became one"
    assert changed == len(plain)


def test_new_ids_stand_wherever_the_ids_stood() -> None:
    shops = {product.asin for product in open_world(SETTINGS["size"], 1).shop.catalogue.products}
    plain, new = (list(episodes(SETTINGS | {"new_ids": made_up}, 5, 1, 20)) for made_up in (False, True))
    for before, after in zip(plain, new, strict=True):
        ids: dict[str, str] = {}
        for (role, old), (same, text) in zip(before, after, strict=True):
            assert role == same
            assert re.sub(ID, "an id", old) == re.sub(ID, "an id", text)
            for one, other in zip(re.findall(ID, old), re.findall(ID, text), strict=True):
                assert ids.setdefault(one, other) == other
        assert ids, "an episode without a product shows nothing"
        assert len(set(ids.values())) == len(ids)
        assert not shops & set(ids.values())


def test_lists_are_true() -> None:
    questions = set()
    for number in range(100):
        messages = recall_conversation(["Mug", "tea", "Gift", "box"], random.Random(number))
        rows = messages[0][1].split(" [SEP] ")
        entries = {
            a: (title, float(price[1:])) for a, title, price in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        }
        for (_, question), (_, answer) in zip(messages[1::2], messages[2::2], strict=True):
            assert answer == recalled(question, entries, messages[0][1])
            questions.add(re.sub(rf"{ID}|\d+|have \w+", "...", question))
    assert len(questions) == 8


def recalled(question: str, entries: dict[str, tuple[str, float]], text: str) -> str:
    ids = list(entries)
    if question == "Repeat.":
        return text
    if asked := re.fullmatch(rf"What is the title of ({ID})\?", question):
        return entries[asked[1]][0]
    if asked := re.fullmatch(rf"What does ({ID}) cost\?", question):
        return short(entries[asked[1]][1])
    if asked := re.fullmatch(r"Which id is number (\d+)\?", question):
        return ids[int(asked[1]) - 1]
    if asked := re.fullmatch(rf"Which id comes after ({ID})\?", question):
        return [*ids, "none"][ids.index(asked[1]) + 1]
    if asked := re.fullmatch(rf"Is ({ID}) below (\d+)\?", question):
        return against(entries[asked[1]][1], float(asked[2]))
    if asked := re.fullmatch(r"Which ids have (\w+) in the title\?", question):
        return listed(a for a, (title, _) in entries.items() if asked[1] in title.split())
    asked = re.fullmatch(r"Which ids are below (\d+)\?", question)
    return listed(a for a, (_, price) in entries.items() if price < float(asked[1]))
