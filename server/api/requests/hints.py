"""Values of the fields that the OpenAI API lets a server take as advice.

They are checked, so that a typing error is told, and change no answer but where a chat template
reads them; `docs/api.md` says so field by field.
"""

from typing import Literal

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority"]
CacheRetention = Literal["in_memory", "in-memory", "24h"]
