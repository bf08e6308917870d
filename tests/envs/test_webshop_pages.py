"""WebShop's pages and actions on a shop written by hand: whole texts, whole lists, as the original has them."""

import dataclasses

import pytest

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

from qlass.envs.webshop import DEFINITION
from qlass.envs.webshop.pages import Pages
from qlass.envs.webshop.state import State, parse_action
from tests.envs.tinyshop import LAMP, MUG, SCARF, VASE, goal_of, open_shop

SHOP = open_shop()
GOAL = goal_of(SHOP, MUG, "navy blue", "large | wide")
INSTRUCTION = SHOP.goals[GOAL].instruction
HEAD = f"Instruction: [SEP] {INSTRUCTION} [SEP] Back to Search"
MUG_PAGE = (
    f'{HEAD} [SEP] < Prev [SEP] color [SEP] navy blue [SEP] sand [SEP] size [SEP] 4" x 3" [SEP] large | wide [SEP] sand '
    '[SEP] Harbor & Co Stoneware Mug, 4" Tall [SEP] Price: $8.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] '
    "Reviews [SEP] Buy Now"
)
OPEN = ("search[stoneware mug]", f"click[{MUG}]")


def walk(*actions, shop=SHOP, goal=GOAL):
    """Return the state after actions, all of which must do something."""
    state = State(goal)
    for action in actions:
        following = shop.apply(state, action)
        assert following is not None, action
        state = following
    return state


def text(*actions, mode="text", shop=SHOP, goal=GOAL):
    """Return the page after actions."""
    return Pages(shop, mode).render(walk(*actions, shop=shop, goal=goal))


def clickables(*actions, shop=SHOP, goal=GOAL):
    """Return what can be clicked after actions."""
    return list(shop.targets(walk(*actions, shop=shop, goal=goal)))


def candles(*numbers):
    """Return the ids of candles, in the order of a tie."""
    return [f"B0CANDLE{number:02}" for number in numbers]


TEXT_PAGES = {
    (): f"WebShop [SEP] Instruction: [SEP] {INSTRUCTION} [SEP] Search",
    ("search[stoneware]",): (
        f'{HEAD} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] {VASE} [SEP] Stoneware Vase [SEP] $985.0 [SEP] {MUG} '
        '[SEP] Harbor & Co Stoneware Mug, 4" Tall [SEP] $8.5'
    ),
    ("search[stoneware]", "click[next >]"): (
        f"{HEAD} [SEP] Page 2 (Total results: 2) [SEP] < Prev [SEP] Next >"
    ),
    ("search[the of unknown]",): f"{HEAD} [SEP] Page 1 (Total results: 0) [SEP] Next >",
    OPEN: MUG_PAGE,
    (*OPEN, "click[sand]"): MUG_PAGE,  # a chosen option does not show
    (*OPEN, "click[description]"): f"{HEAD} [SEP] < Prev [SEP] Glazed by hand <in small lots>. Lead free.",
    (*OPEN, "click[features]"): (
        f"{HEAD} [SEP] < Prev [SEP] dishwasher safe and solid [SEP]  [SEP] Easy to hold"
    ),
    (*OPEN, "click[reviews]"): f"{HEAD} [SEP] < Prev",
    ("search[dimmer]", f"click[{LAMP}]", "click[description]"): f"{HEAD} [SEP] < Prev",
    ("search[dimmer]", f"click[{LAMP}]"): (
        f"{HEAD} [SEP] < Prev [SEP] Desk Lamp with Dimmer [SEP] Price: $100.0 [SEP] Rating: N.A. [SEP] Description [SEP] "
        "Features [SEP] Reviews [SEP] Buy Now"
    ),
    ("search[wool]", f"click[{SCARF.lower()}]"): (
        f"{HEAD} [SEP] < Prev [SEP] color [SEP] rosé [SEP] light blue [SEP] kid's <3 & up [SEP] Écharpe d'hiver – Wool Scarf [SEP] "
        "Price: $1012.0 to $1020.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    ),
    (*OPEN, "click[navy blue]", "click[large | wide]", "click[buy now]"): (
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk interface.) [SEP] "
        f'Purchased [SEP] asin [SEP] {MUG} [SEP] options [SEP] {{"color": "navy blue", "size": "large | wide"}} [SEP] '
        "attrs [SEP] None [SEP] category [SEP] None [SEP] query [SEP] None [SEP] product category [SEP] None [SEP] Target "
        "[SEP] asin [SEP] options [SEP] attrs [SEP] price upper [SEP] instuction text [SEP] category [SEP] product category "
        "[SEP] query [SEP] Goal [SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 1.0 [SEP] Reward Details "
        "[SEP] None"
    ),
}  # fmt: skip


@pytest.mark.parametrize("actions", TEXT_PAGES, ids=lambda actions: " ".join(actions) or "index")
def test_pages_in_text(actions):
    assert text(*actions) == TEXT_PAGES[actions]


def rich(*lines):
    """Return a page of mode text_rich."""
    return "".join(f"{line}\n" for line in lines)


RICH_HEAD = ("Instruction:", INSTRUCTION, "[button] Back to Search [button_]")
RICH_TAIL = (
    'Harbor & Co Stoneware Mug, 4" Tall', "Price: $8.5", "Rating: N.A.", "[button] Description [button_]",
    "[button] Features [button_]", "[button] Reviews [button_]", "[button] Buy Now [button_]",
)  # fmt: skip
RICH_PAGES = {
    (): rich("WebShop", "Instruction: ", INSTRUCTION, "[button] Search [button_]"),
    (*OPEN, "click[< prev]"): rich(
        *RICH_HEAD, "Page 1 (Total results: 2)", "[button] Next > [button_]",
        f"\n[clicked button] {MUG} [clicked button_]", 'Harbor & Co Stoneware Mug, 4" Tall', "$8.5",
        f"\n[button] {VASE} [button_]", "Stoneware Vase", "$985.0",
    ),
    (*OPEN, "click[large | wide]", 'click[sand]', "click[navy blue]"): rich(
        "You have clicked sand.", "You have clicked sand.", "You have clicked navy blue.",  # later groups first
        *RICH_HEAD, "[button] < Prev [button_]",
        "color", "  [clicked button] navy blue [clicked button_]", "  [clicked button] sand [clicked button_]",
        "size", '  [button] 4" x 3" [button_]', "  [button] large | wide [button_]",
        "  [clicked button] sand [clicked button_]", *RICH_TAIL,
    ),
    (*OPEN, "click[navy blue]", 'click[4" x 3"]'): rich(
        "You have clicked navy blue.",
        *RICH_HEAD, "[button] < Prev [button_]",
        "color", "  [clicked button] navy blue [clicked button_]", "  [button] sand [button_]",
        # A value with a quotation mark never shows as chosen: JSON writes it in another way.
        "size", '  [button] 4" x 3" [button_]', "  [button] large | wide [button_]", "  [button] sand [button_]",
        *RICH_TAIL,
    ),
    ('search[stoneware "sand" mug]', f"click[{MUG}]"): rich(
        "You have clicked sand.", "You have clicked sand.",  # the query is in the URL, too
        *RICH_HEAD, "[button] < Prev [button_]",
        "color", "  [button] navy blue [button_]", "  [clicked button] sand [clicked button_]",
        "size", '  [button] 4" x 3" [button_]', "  [button] large | wide [button_]",
        "  [clicked button] sand [clicked button_]", *RICH_TAIL,
    ),
    (*OPEN, "click[features]"): rich(
        *RICH_HEAD, "[button] < Prev [button_]", " dishwasher safe and solid", " ", " Easy to hold",
    ),
    (*OPEN, "click[buy now]"): rich(
        "Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)", "Purchased",
        "asin", MUG, "options", "{}", "attrs", "None", "category", "None", "query", "None", "product category", "None",
        "Target", "asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query",
        "Goal ", "None", "Reward", "Your score (min 0.0, max 1.0)", "0.6", "Reward Details ", "None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("actions", RICH_PAGES, ids=lambda actions: " ".join(actions) or "index")
def test_pages_in_rich_text(actions):
    assert text(*actions, mode="text_rich") == RICH_PAGES[actions]


CLICKABLES = {
    (): ["search"],
    ("search[soy]",): ["back to search", "next >", *map(str.lower, candles(*range(10)))],
    ("search[soy]", "click[next >]"): ["back to search", "< prev", "next >", *map(str.lower, candles(10, 11))],
    OPEN: [
        "back to search", "< prev", "description", "features", "reviews", "buy now", "navy blue", "sand", '4" x 3"',
        "large | wide",
    ],
    (*OPEN, "click[features]"): ["back to search", "< prev"],
    (*OPEN, "click[buy now]"): [],
}  # fmt: skip


@pytest.mark.parametrize("actions", CLICKABLES, ids=lambda actions: " ".join(actions) or "index")
def test_clickables(actions):
    assert clickables(*actions) == CLICKABLES[actions]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("search[a]b]", ("search", "a]b")),
        ("click[Buy Now]", ("click", "buy now")),
        ("click[a] then wait", ("click", "a")),
        ("click[a[b]]", ("click[a", "b]")),
        ("search[a] then click[b]", ("search[a] then click", "b")),
        ("Search[x]", ("Search", "x")),
        (" click[x]", (" click", "x")),
        ("click[]", ("click[]", "")),
        ("click[a\nb]", ("click[a\nb]", "")),
        ("click", ("click", "")),
        ("", ("", "")),
    ],
)
def test_parse_action(action, expected):
    assert parse_action(action) == expected


@pytest.mark.parametrize(
    "action",
    [
        "", "xyzzy", "search", "search[]", "Search[mug]", " search[mug]", "search [mug]", "search[mug", "click[]",
        "click[search]", "click[unknown]", "Click[buy now]", "click[ buy now]", "click[buy\nnow]", "click[a[b]]",
        "search[a] then click[b]", "think[search[mug]]", "[mug]", "click[back to search",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [(), OPEN], ids=["index", "item"])
def test_what_is_no_action_does_nothing(action, before):
    assert SHOP.apply(walk(*before), action) is None


@pytest.mark.parametrize("before", [(), ("search[soy]",), OPEN, (*OPEN, "click[features]")], ids=lambda b: str(len(b)))
def test_a_search_works_on_every_page(before):
    assert text(*before, "search[Dimmer]") == text("search[dimmer]")


def test_the_page_of_results_and_the_options_as_upstream_keeps_them():
    second = walk("search[soy]", "click[next >]", f"click[{candles(10)[0]}]")
    assert SHOP.apply(second, "click[< prev]").page == 2
    chosen = walk(*OPEN, "click[navy blue]", "click[sand]")
    assert chosen.options == (("color", "navy blue"), ("size", "sand"))  # the value of two groups is the last one's
    features = SHOP.apply(chosen, "click[features]")
    assert SHOP.apply(features, "click[< prev]") == chosen
    results = SHOP.apply(chosen, "click[< prev]")
    assert (results.options, results.visited) == ((), {MUG})
    assert SHOP.apply(results, "click[back to search]") == State(GOAL)
    assert SHOP.apply(chosen, "search[soy]").visited == {MUG}


@pytest.mark.parametrize(
    ("actions", "shown"),
    [
        (
            (*OPEN, "click[large | wide]", "click[navy blue]"),
            '{"color": "navy blue", "size": "large | wide"}',
        ),  # sorted
        (("search[wool]", f"click[{SCARF}]", "click[rosé]"), r'{"color": "ros\u00e9"}'),
        (
            ("search[wool]", f"click[{SCARF}]", "click[kid's <3 & up]"),
            r'{"color": "kid\u0027s \u003c3 \u0026 up"}',
        ),
    ],
)
def test_options_on_the_last_page_are_written_for_html(actions, shown):
    assert f" [SEP] options [SEP] {shown} [SEP] attrs [SEP] " in text(*actions, "click[buy now]")


def test_a_second_choice_in_a_group_replaces_the_first():
    assert walk(*OPEN, "click[large | wide]", "click[navy blue]", "click[sand]").options == (
        ("size", "sand"), ("color", "navy blue"),
    )  # fmt: skip


def test_upstream_reads_its_page_from_the_url_in_which_the_query_stands():
    lost = walk("search[search_results soy]", "click[next >]", f"click[{candles(10)[0]}]", "click[< prev]")
    assert (lost.place, lost.page) == ("results", 1)
    assert SHOP.listed(walk("search[search_results soy]", f"click[{candles(0)[0]}]", "click[< prev]")) == ()
    assert (
        walk("search[item_page soy]", f"click[{candles(0)[0]}]", "click[features]", "click[< prev]").place == "results"
    )


def test_buying_ends_it():
    bought = walk(*OPEN, "click[buy now]")
    assert (bought.place, bought.reward) == ("done", 3 / 5)
    assert SHOP.apply(bought, "search[mug]") is None
    unlocked = open_shop(locked=False)
    assert text(*OPEN, "click[buy now]", "search[dimmer]", shop=unlocked) == text("search[dimmer]")
    assert walk(*OPEN, "click[buy now]", "search[dimmer]", shop=unlocked).reward is None
    assert unlocked.apply(bought, "click[buy now]") is None


def test_hidden_attributes_where_they_are_shown():
    shop = open_shop(show_attributes=True)
    assert clickables(*OPEN, shop=shop)[2:6] == ["description", "features", "reviews", "attributes"]
    assert "Reviews [SEP] Attributes [SEP] Buy Now" in text(*OPEN, shop=shop)
    assert text(*OPEN, "click[attributes]", shop=shop) == (
        f"{HEAD} [SEP] < Prev [SEP] dishwasher safe [SEP] lead free [SEP] hand glazed [SEP] garden [SEP] coffee mugs [SEP] "
        "Home › Kitchen › Mugs"
    )


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("<c> fashion", [SCARF]),
        ("<q> coffee mugs", [MUG]),
        ("<a> lead free", [MUG]),
        ("<q> unknown", []),
        ("<c>", []),
    ],
)
def test_hidden_commands(query, found):
    shop = open_shop(hidden_commands=True)
    assert list(shop.listed(walk(f"search[{query}]", shop=shop))) == found
    assert SHOP.hits(tuple(query.split())) == SHOP.hits(tuple(query.translate({60: None, 62: None}).split()))


def test_the_hidden_command_for_anything():
    shop = open_shop(hidden_commands=True)
    hits = shop.hits(("<r>",))
    assert sorted(hits) == sorted(shop.catalogue.by_asin)
    assert hits == open_shop(hidden_commands=True).hits(("<r>",))


def test_a_blank_is_a_query():
    assert "Page 1 (Total results: 0)" in text("search[ ]")


def test_human_goals_are_played_alike():
    shop = open_shop("human")
    goal = goal_of(shop, MUG, "navy blue", "large | wide")
    assert walk(*OPEN, "click[navy blue]", "click[large | wide]", "click[buy now]", shop=shop, goal=goal).reward == 1.0
    assert walk(*OPEN, "click[navy blue]", "click[buy now]", shop=shop, goal=goal).reward == 3 / 4


@pytest.mark.parametrize("mode", ["text", "text_rich"])
@pytest.mark.parametrize(
    "actions",
    [
        (),
        OPEN[:1],
        ("search[candle]", "click[next >]"),
        ("search[zzz]",),
        OPEN,
        (*OPEN, "click[navy blue]", "click[large | wide]"),
        (*OPEN, "click[features]"),
        (*OPEN, "click[reviews]"),
    ],
)
def test_a_page_is_cut_around_its_instruction(actions, mode):
    page = text(*actions, mode=mode)
    before, instruction, after = DEFINITION.partition_task(page)
    assert instruction == INSTRUCTION
    assert before + instruction + after == page
    assert before.endswith(("Instruction: [SEP] ", "Instruction:\n", "Instruction: \n"))
    assert before.count("You have clicked ") == sum(mode == "text_rich" and "e]" in action for action in actions[2:])


@pytest.mark.parametrize("mode", ["text", "text_rich"])
@pytest.mark.parametrize(
    "written",
    ["a", "Instruction:", "on", 'caf\u00e9 [SEP] 16" x\n22', "click [button] Search [button_] please", "Search"],
)
def test_any_instruction_is_found_where_it_stands(written, mode):
    """Also one whose text stands elsewhere on the page, before it or after it."""
    shop = open_shop()
    goals = list(shop.goals)
    goals[GOAL] = dataclasses.replace(goals[GOAL], instruction=written)
    shop.goals = tuple(goals)
    for actions in ((), OPEN, (*OPEN, "click[navy blue]")):
        page = text(*actions, mode=mode, shop=shop)
        before, instruction, after = DEFINITION.partition_task(page)
        assert (instruction, before + instruction + after) == (written, page)


@pytest.mark.parametrize("mode", ["text", "text_rich"])
@pytest.mark.parametrize("written", ["", " ", "\n"])
def test_a_page_without_instruction_is_not_cut(written, mode):
    shop = open_shop()
    goals = list(shop.goals)
    goals[GOAL] = dataclasses.replace(goals[GOAL], instruction=written)
    shop.goals = tuple(goals)
    for actions in ((), OPEN, (*OPEN, "click[features]"), (*OPEN, "click[buy now]")):
        page = text(*actions, mode=mode, shop=shop)
        before, instruction, after = DEFINITION.partition_task(page)
        assert not instruction.strip()
        assert before + instruction + after == page
