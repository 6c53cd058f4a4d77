"""The engine for OpenAI-compatible servers: load balancing, health checks and retries."""

from judges.engines.openai.engine import OpenAIEngine

__all__ = ["OpenAIEngine"]
