"""From a chat request to what the template renders, and to how the answer is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from adapters.base.plain_tools import knows_tools, with_plain_tools
from server.api.generation.resolution import ServedModel
from server.api.requests.chat_and_completion import ChatBody, ConversationBody
from server.api.requests.tools import ToolUse
from server.api.tool_calls.tool_formats import SYNTAX, ToolFormat, detected_format
from server.api.tool_calls.tool_grammar import Compile, enforceable, tool_grammar
from server.api.tool_calls.tool_parser import CallParser
from server.api.tool_calls.tool_pieces import ToolParser
from server.core.chat import ChatPrompt
from server.core.errors import RequestError
from server.core.grammar import GrammarSpec
from server.core.ports import ChatTokenizer
from server.core.stack import AdapterStack


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation ready to render. `make_parser` is None when nothing can be called.

    `looser_shape` finds what can be enforced of a `shape` that as a whole can't, by compiling its
    parts; it raises the `RequestError` of a part that must hold.
    """

    prompt: ChatPrompt
    shape: GrammarSpec | None = None
    looser_shape: Callable[[Compile], GrammarSpec] | None = None
    make_parser: Callable[[], ToolParser] | None = None
    shows_special_tokens: bool = False


class Conversations:
    """Knows the base's template and its family's way to call tools.

    `tool_format` overrides what the template's own words say; None detects.
    """

    def __init__(self, tokenizer: ChatTokenizer, tool_format: ToolFormat | None = None) -> None:
        self._tokenizer = tokenizer
        self._tool_format = tool_format

    def of_chat(self, body: ChatBody, served: ServedModel) -> Conversation:
        """Raises `RequestError` for contradictory tools, shapes or templates."""
        return self.build(body, served.stack, body.tool_use(), body.shape)

    def build(
        self,
        body: ConversationBody,
        stack: AdapterStack,
        use: ToolUse | None,
        shape: GrammarSpec | None,
    ) -> Conversation:
        """The conversation of `body`, whose answer may use tools and has a shape."""
        template, owner = stack_template(stack), _template_owner(stack)
        messages = [message.as_template_message() for message in body.messages]
        declared = use.declared if use is not None else ()
        tools = [function.as_template_tool() for function in declared]
        text = template or self._tokenizer.chat_template
        prompt = ChatPrompt(
            messages,
            template=template,
            template_arguments=body.template_arguments,
            adds_generation_prompt=body.add_generation_prompt,
            continues_final_message=body.continue_final_message,
            template_owner=owner,
        )
        if knows_tools(text):
            prompt = replace(prompt, tools=tools)
        elif tools or any("tool_calls" in m or m["role"] == "tool" for m in messages):
            prompt = replace(prompt, messages=with_plain_tools(messages, tools))
        if use is None:
            return Conversation(prompt, shape)
        return self._with_tools(prompt, text, use, shape)

    def _with_tools(
        self, prompt: ChatPrompt, template: str, use: ToolUse, shape: GrammarSpec | None
    ) -> Conversation:
        tool_format = self._tool_format or detected_format(template)
        if not knows_tools(template):
            tool_format = ToolFormat.HERMES  # the rendering below asks for it
        syntax = SYNTAX[tool_format]
        special_token = self._tokenizer.special_token_id
        looser_shape: Callable[[Compile], GrammarSpec] | None = None
        if use.needs_grammar or shape is not None:
            content = shape
            shape = tool_grammar(use, syntax, special_token, content)

            def looser(compile_: Compile) -> GrammarSpec:
                if content is not None:
                    compile_(content)
                return tool_grammar(enforceable(use, compile_), syntax, special_token, content)

            looser_shape = looser

        names = frozenset(function.name for function in use.callable)
        is_special = bool(syntax.opening) and special_token(syntax.opening) is not None
        return Conversation(
            prompt, shape, looser_shape, partial(CallParser, syntax, names), is_special
        )


def stack_template(stack: AdapterStack) -> str | None:
    """The template of their own that a stack's adapters may use; None for the base's.

    Adapters that nobody recorded one for have no say. Raises `RequestError` when two differ: no
    rendering would be right for both.
    """
    having = [m.adapter for m in stack.members if m.adapter.chat_template is not None]
    if not having:
        return None
    first = having[0]
    for other in having[1:]:
        if other.chat_template != first.chat_template:
            raise RequestError(
                f"{first.label} and {other.label} are rendered with different chat templates, so "
                "no prompt suits both: stack others, or send the rendered text to /v1/completions",
                "model",
            )
    return first.chat_template or None


def _template_owner(stack: AdapterStack) -> str:
    """Whose template `stack_template` is, for errors."""
    labels = (m.adapter.label for m in stack.members if m.adapter.chat_template)
    return next(labels, "the base")
