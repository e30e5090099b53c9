"""A member of a sequence's stack: which adapter, with what scale, and from where in the prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.core.stack import StackMember
from server.core.traits import AdapterTraits, find_invocation


@dataclass(frozen=True, slots=True)
class Member:
    """`activation` is where in the prompt it begins to act; None: before the first token."""

    member: StackMember
    traits: AdapterTraits
    activation: int | None

    @property
    def digest(self) -> str:
        return self.member.adapter.digest

    @staticmethod
    def of(
        member: StackMember,
        traits: Mapping[str, AdapterTraits] | None,
        prompt_token_ids: tuple[int, ...],
    ) -> "Member":
        """An aLoRA whose invocation isn't in the prompt must be refused before it gets here."""
        if traits is None:
            return Member(member, AdapterTraits(member.adapter.num_pages), None)
        trait = traits[member.adapter.digest]
        activation: int | None = None
        if trait.invocation_token_ids:
            activation = find_invocation(prompt_token_ids, trait.invocation_token_ids)
            assert activation is not None, trait.invocation_token_ids
        return Member(member, trait, activation)
