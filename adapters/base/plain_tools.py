"""Tools, calls and results as plain text, for chat templates that know none of them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.base.chat_messages import TemplateMessage

_TOOL_PREAMBLE = """\
You may call one or more functions to assist with the user's request. These are the functions, \
each as a JSON object with the schema of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with its name and arguments as a JSON object inside \
<tool_call></tool_call>:
<tool_call>
{{"name": "function-name", "arguments": {{...}}}}
</tool_call>"""


def knows_tools(template: str) -> bool:
    """Whether a chat template renders tools."""
    return re.search(r"\btools\b", template) is not None


def with_plain_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[TemplateMessage]:
    """Tools, calls and results as plain text, for a template that knows none of them.

    The tools stand in the system message, calls in the assistant's text, results in a user's turn.
    """
    rendered: list[TemplateMessage] = []
    for message in messages:
        if message["role"] == "tool":
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if rendered and rendered[-1].get("is_result"):
                rendered[-1]["content"] += "\n" + result
            else:
                rendered.append({"role": "user", "content": result, "is_result": True})
        elif "tool_calls" in message:
            calls = "\n".join(_plain_call(call["function"]) for call in message["tool_calls"])
            content = f"{message['content']}\n{calls}" if message["content"] else calls
            rendered.append({"role": "assistant", "content": content})
        else:
            rendered.append(dict(message))
    for message in rendered:
        message.pop("is_result", None)
    if tools:
        _tell(rendered, tools)
    return rendered


def _tell(messages: list[TemplateMessage], tools: Sequence[Mapping[str, Any]]) -> None:
    preamble = _TOOL_PREAMBLE.format(tools="\n".join(_json(tool) for tool in tools))
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{preamble}"
    else:
        messages.insert(0, {"role": "system", "content": preamble})


def _plain_call(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{_json(call)}\n</tool_call>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
