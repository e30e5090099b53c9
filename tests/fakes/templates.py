"""Chat templates as an attacker would bring them along with an adapter."""

from dataclasses import replace

from server.core.stack import AdapterStack
from tests.fakes.api_catalog import FakeCatalog

LOOPING = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
GROWING = (
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x|length }}"
)
WIDENING = "{% for i in range(99999) %}{{ 'wide ' * 99999 }}{% endfor %}"
LONG = "{{ 'x' * 2000000 }}"
CALLING_ITSELF = "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"
NESTED = "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}"
RAISING = "{{ raise_exception('no cats here') }}"
ECHOING = "{% for m in messages %}{{ m.content }}{% endfor %}"


class EachItsTemplate(FakeCatalog):
    """Adapters come with the chat templates that they are given by name."""

    def __init__(self, **templates: str) -> None:
        super().__init__()
        self._current = dict.fromkeys(templates, 1)
        self._templates = templates

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        members = super().resolve(expression, sticky_key).members
        return AdapterStack(
            tuple(
                replace(
                    m, adapter=replace(m.adapter, chat_template=self._templates[m.adapter.name])
                )
                for m in members
            )
        )
