"""Every kind of adapter against PEFT's own model: alone, and all mixed in one batch."""

from tests.unit.server.model.kinds_world import LOGITS_ATOL, NUM_TOKENS, PROMPT, World


def test_each_kind_alone_and_all_in_one_batch_equal_peft(world: World) -> None:
    engine = world.engine()
    names = list(world.expected)
    requests = [(PROMPT, [(name, 1.0)] if name else []) for name in names]
    together = engine.generate(requests, NUM_TOKENS)
    wrong = {}
    for name, request, mixed in zip(names, requests, together, strict=True):
        engine.forget_cache()
        (alone,) = engine.generate([request], NUM_TOKENS)
        tokens, logits = world.expected[name]
        worst = max(float((a.logits - logits).abs().max()) for a in (alone, mixed))
        if (alone.token_ids, mixed.token_ids) != (tokens, tokens) or worst > LOGITS_ATOL:
            wrong[name] = worst
    assert not wrong
    base = world.expected[""][1]
    assert all((world.expected[n][1] - base).abs().max() > 0.02 for n in names if n)
