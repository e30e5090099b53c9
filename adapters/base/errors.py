"""What can go wrong with a base model.

BaseModelError(AdapterError)
├── BaseNotFoundError    no such folder, distribution or hub id - or no network to ask the hub
└── BaseUnreadableError  it is there, but its files can't be loaded

To add one: subclass `BaseModelError` and say in the message what to do.
"""

from adapters.errors import AdapterError


class BaseModelError(AdapterError):
    """The base model can't be had."""


class BaseNotFoundError(BaseModelError):
    """The reference leads nowhere."""


class BaseUnreadableError(BaseModelError):
    """The files of the base model can't be loaded."""
