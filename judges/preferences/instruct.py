"""The former path of `judges.preferences.self_instruct`, kept for scripts that import from it."""

from judges.preferences.self_instruct import SelfInstructSettings as Instruct
from judges.preferences.self_instruct import make_prompts

__all__ = ["Instruct", "make_prompts"]
