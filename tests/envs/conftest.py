import pytest


@pytest.fixture(params=["ale", "envpool"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "envpool":
        pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    return request.param
