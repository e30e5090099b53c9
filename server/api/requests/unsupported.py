"""Fields that exist elsewhere and that this server doesn't honour.

Each is refused by name, unless its value is one of those listed here: those ask for what happens
anyway. A null is always such a value. Sources: the OpenAI API reference and vLLM's extensions.
"""

from collections.abc import Mapping
from typing import Final

Neutral = Mapping[str, tuple[object, ...]]

_SAMPLING: Final[Neutral] = {
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "spaces_between_special_tokens": (True,),
    "priority": (0,),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "logits_processors": ([],),
}

CHAT: Final[Neutral] = {
    **_SAMPLING,
    "best_of": (1,),
    "echo": (False,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "prompt_cache_options": (),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "include_reasoning": (),
}

COMPLETION: Final[Neutral] = {**_SAMPLING, "suffix": ("",)}

MESSAGE: Final[Neutral] = {
    "audio": (),
    "annotations": ([],),
}

STRUCTURED_OUTPUTS: Final[Neutral] = {
    "structural_tag": (),
    "disable_fallback": (True,),
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
}

LOAD_ADAPTER: Final[Neutral] = {"is_3d_lora_weight": (False,), "base_model_name": ()}

UNLOAD_ADAPTER: Final[Neutral] = {"lora_int_id": ()}

TOKENIZE: Final[Neutral] = {"chat_template": (), "mm_processor_kwargs": ({},)}

RESPONSE: Final[Neutral] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": (),
    "conversation": (),
    "image": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "prompt_cache_options": (),
}

RESPONSE_ITEM: Final[Neutral] = {
    "phase": (),
    "caller": (),
    "namespace": (),
    "async": (False,),
}
