"""Fields that exist elsewhere and that this server doesn't honour.

Each is refused by name, unless its value is one of those listed here: those ask for what happens
anyway. A null is always such a value. Sources: the OpenAI API reference and vLLM's extensions.
"""

from collections.abc import Mapping
from typing import Final

Neutral = Mapping[str, tuple[object, ...]]

_SAMPLING: Final[Neutral] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "echo": (False,),
    "priority": (0,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
}

CHAT: Final[Neutral] = {
    **_SAMPLING,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
}

COMPLETION: Final[Neutral] = {
    **_SAMPLING,
    "logprobs": (),
    "suffix": ("",),
    "add_special_tokens": (True,),
}

MESSAGE: Final[Neutral] = {
    "name": (),
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
    "audio": (),
    "refusal": (),
    "annotations": ([],),
    "reasoning": (),
    "reasoning_content": (),
}

STREAM_OPTIONS: Final[Neutral] = {
    "include_obfuscation": (False,),
    "continuous_usage_stats": (False,),
}

LOAD_ADAPTER: Final[Neutral] = {"is_3d_lora_weight": (False,), "base_model_name": ()}

UNLOAD_ADAPTER: Final[Neutral] = {"lora_int_id": ()}
