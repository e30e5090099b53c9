"""Templates render as transformers renders them, and whatever they do is an answer."""

import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from server.core.chat import ChatPrompt, RenderOrder
from server.model.rendering.render_frames import Outcome, order_body, order_of, reply_of
from server.model.rendering.render_worker import rendered, reply_to
from server.model.tokenizer import TransformersTokenizer
from tests.fakes.templates import CALLING_ITSELF, LONG, NESTED, RAISING
from tests.unit.trainer.families import FAMILIES, Family

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <kind> & brief."},
    {"role": "user", "content": "naïve 你好 🙂 \u2028 \n x", "name": None},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1.5}}}],
    },
    {"role": "tool", "content": "[1, 2]"},
    {"role": "assistant", "content": "Yes.", "reasoning": "because"},
    {"role": "user", "content": "And?  "},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TEMPLATES = {
    "tojson": "{% for m in messages %}{{ m | tojson(indent=2) }}{% endfor %}{{ tools | tojson }}",
    "plain": "{{ messages }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ mood }}",
    "date": "{{ strftime_now('%Y') }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "trimming": "  {% if tools %}\n  {{ bos_token }}\n  {% endif %}\n{{ messages[0].content }}\n",
    "missing keys": "{% for m in messages %}{{ m.content is defined }}{{ m.name is defined }}"
    "{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}",
    "namespace": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}"
    "{% endfor %}{{ n.x }}{{ dict(a=1) }}{{ dict.fromkeys('ab') }}",
}


def plain_tokenizer() -> PreTrainedTokenizerFast:
    rust = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", bos_token="<s>")


def order_with(template: str, **fields: Any) -> RenderOrder:
    return RenderOrder("sql@3", template, [{"role": "user", "content": "hi"}], **fields)


def sent(order: RenderOrder) -> RenderOrder:
    """As it arrives in the process."""
    return order_of(order_body(order))


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["bare", "tools"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name: str, tools: list[dict[str, Any]]) -> None:
    tokenizer, arguments = plain_tokenizer(), {"mood": [1, None, {"a": True}]}
    ours = TransformersTokenizer(tokenizer, eos_token_ids=frozenset(), allows_special_tokens=True)
    prompt = ChatPrompt(TURNS, tools, TEMPLATES[name], arguments)
    expected = tokenizer.apply_chat_template(
        TURNS, tools=tools or None, chat_template=TEMPLATES[name], tokenize=False,
        add_generation_prompt=True, **arguments,
    )  # fmt: skip
    assert rendered(sent(ours.render_order(prompt, 64))) == expected
    assert name != "date" or expected in {str(datetime.now().year), str(datetime.now().year - 1)}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_families_render_as_in_transformers(family: Family, goes_on: bool) -> None:
    tokenizer = family.tokenizer()
    turns = [{"role": "user", "content": "a b "}, {"role": "assistant", "content": "c "}]
    turns = turns if goes_on else turns[:1]
    ours = TransformersTokenizer(tokenizer, eos_token_ids=frozenset(), allows_special_tokens=True)
    prompt = ChatPrompt(turns, template=family.template, continues_final_message=goes_on)
    expected = tokenizer.apply_chat_template(
        turns, chat_template=family.template, tokenize=False,
        add_generation_prompt=not goes_on, continue_final_message=goes_on,
    )  # fmt: skip
    assert rendered(sent(ours.render_order(prompt, 64))) == expected


@pytest.mark.parametrize(
    ("template", "outcome", "text"),
    [
        (LONG, Outcome.TOO_LONG, ""),
        (CALLING_ITSELF, Outcome.REFUSED, "too deep"),
        (NESTED, Outcome.REFUSED, "too deep"),
        (RAISING, Outcome.REFUSED, "no cats here"),
        ("{{ raise_exception('x' * 100000) }}", Outcome.REFUSED, "x" * 2000),
        ("{% if %}", Outcome.REFUSED, "Expected an expression"),
        ("{{ 'a'.encode('no-such') }}", Outcome.REFUSED, "unknown encoding"),
        ("{{ ''.__class__.__mro__ }}", Outcome.REFUSED, "unsafe"),
        ("{{ 1 // 0 }}", Outcome.REFUSED, "zero"),
        ("{{ '\\ud800' }}", Outcome.REFUSED, "surrogates"),
        ("{{ 'x' * 10**15 }}", Outcome.OUT_OF_MEMORY, ""),
    ],
)
def test_what_a_template_does_wrong_is_an_answer(
    template: str, outcome: Outcome, text: str
) -> None:
    reply = reply_to(order_body(order_with(template)))
    assert reply.outcome is outcome
    assert text in reply.text
    assert len(reply.text) <= 2000
    assert reply_of(reply.encoded()[4:]) == reply


def test_no_conversation_is_refused_as_before() -> None:
    reply = reply_to(order_body(RenderOrder("the base", "hello", [])))
    assert reply.outcome is Outcome.REFUSED


def test_a_text_may_be_as_long_as_the_longest_tokens_of_a_whole_window() -> None:
    ours = TransformersTokenizer(plain_tokenizer(), eos_token_ids=frozenset())
    order = ours.render_order(ChatPrompt([{"role": "user", "content": ""}], template="x"), 7)
    assert order.max_chars == 7 * len("<unk>")


def test_the_process_has_no_torch() -> None:
    code = (
        "import sys; from server.core.chat import RenderOrder; "
        "from server.model.rendering import render_worker; "
        "render_worker.rendered(RenderOrder('', '{{ messages }}', [{}])); "
        "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
