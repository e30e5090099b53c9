"""One check of token ids, whichever field holds them."""

import pytest

from server.core.errors import RequestError
from server.core.model_info import ModelInfo

INFO = ModelInfo("base", "base", max_model_len=8, vocab_size=10, created=0)


def test_ids_of_the_model_pass() -> None:
    INFO.check_token_ids((), "tokens")
    INFO.check_token_ids((0, 9), "tokens")


@pytest.mark.parametrize(("token_ids", "unknown"), [((3, 10), 10), ((-1, 12), -1)])
def test_others_are_named_with_the_limit(token_ids: tuple[int, ...], unknown: int) -> None:
    with pytest.raises(RequestError, match=f"tokens holds the token id {unknown}; .* 0 to 9"):
        INFO.check_token_ids(token_ids, "tokens")
