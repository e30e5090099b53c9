import pytest

from tests.unit.server.model.kinds_world import World


@pytest.fixture(scope="session")
def llama_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: adapters of every kind over a tiny llama."""
    return World("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same for an architecture each; gpt2 has transposed linears, biases and a tied head."""
    if request.param == "llama":
        made: World = request.getfixturevalue("llama_world")
        return made
    return World(request.param, tmp_path_factory.mktemp(request.param))
