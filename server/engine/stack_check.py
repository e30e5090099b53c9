"""May a request's stack be served? Asked once its adapters are in host memory."""

from collections.abc import Iterator, Sequence

from server.core.errors import AdapterTooLargeError, PromptTooLongError, RequestError
from server.core.request import GenerationRequest
from server.core.settings import SchedulerSettings
from server.core.stack import StackMember
from server.core.traits import AdapterTraits, find_invocation, stack_problem


def check_stack(
    request: GenerationRequest, traits: Sequence[AdapterTraits], settings: SchedulerSettings
) -> None:
    """Raises `RequestError` for a stack without an exact sum or an adapter that never acts,
    `AdapterTooLargeError` when the bank can't hold it, and `PromptTooLongError` when its virtual
    tokens leave no room for the prompt.

    `traits` are those of the stack's members, in their order.
    """
    if (problem := stack_problem(request.stack, traits)) is not None:
        raise RequestError(problem, "model")
    needed = sum({m.adapter.digest: t.num_pages for m, t in _pairs(request, traits)}.values())
    if needed > settings.num_adapter_pages:
        raise AdapterTooLargeError(
            f"this stack needs {needed} adapter pages; the bank has "
            f"{settings.num_adapter_pages} (setting adapter_bank_pages)",
            "model",
        )
    num_prompt = len(request.prompt_token_ids)
    num_virtual = sum(t.num_virtual_tokens for t in traits)
    if num_virtual + num_prompt + 1 > settings.max_model_len:
        raise PromptTooLongError(
            f"the prompt has {num_prompt} tokens and the adapter puts {num_virtual} virtual ones "
            f"before it; this model's window is {settings.max_model_len} tokens, all of them and "
            "the answer together. Shorten the prompt",
            "messages",
        )
    for member, trait in _pairs(request, traits):
        invocation = trait.invocation_token_ids
        if invocation and find_invocation(request.prompt_token_ids, invocation) is None:
            raise RequestError(
                f"adapter {member.adapter.label} acts from its invocation tokens "
                f"{list(invocation)} on, and the prompt doesn't hold them: the answer would be "
                "the base model's",
                "model",
            )


def _pairs(
    request: GenerationRequest, traits: Sequence[AdapterTraits]
) -> Iterator[tuple[StackMember, AdapterTraits]]:
    return zip(request.stack.members, traits, strict=True)
