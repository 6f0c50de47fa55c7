"""A language model without latency, for OpenEvolve: the whole program again,
with another number in it."""

import itertools

from loop_peer import PROGRAM
from openevolve.llm.base import LLMInterface


class Instant(LLMInterface):
    def __init__(self, config):
        self.model, self.weight = config.name, config.weight
        self.numbers = itertools.count(id(self) % 1_000_003)

    async def generate(self, prompt, **kwargs):
        return f"```python\n{PROGRAM.format(next(self.numbers))}```"

    async def generate_with_context(self, system_message, messages, **kwargs):
        return await self.generate("")
