"""The only place where messages become text and tokens: for training, for acting and for scoring alike."""

from qlass.prompts.chat import CHAT_FORMATS, ChatFormat, Ids, Prompt, TrainingRow, load_chat_format, prompt_limit
from qlass.prompts.replies import history_of, parse_reply, render_reply

__all__ = [
    "CHAT_FORMATS",
    "ChatFormat",
    "Ids",
    "Prompt",
    "TrainingRow",
    "history_of",
    "load_chat_format",
    "parse_reply",
    "prompt_limit",
    "render_reply",
]
