"""What fairness is between: the sequences of one tenant that use one adapter stack."""

from typing import NamedTuple


class Flow(NamedTuple):
    """One tenant's use of one stack (its label). Tenants are fair to each other first."""

    tenant: str
    stack: str
