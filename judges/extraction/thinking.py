"""Thinking blocks (`<think>…</think>`) of reasoning models, separated from the answer."""

from judges.engines.thoughts import THINK_END, THINK_TAG, ends_in_thinking, split_thinking, thinking_spans

__all__ = ["THINK_END", "THINK_TAG", "ends_in_thinking", "split_thinking", "thinking_spans"]
