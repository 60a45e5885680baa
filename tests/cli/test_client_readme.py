"""The library example in the package's README works."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cli.cli_builders import ScriptedServer, on_tcp, parameters
from commucat_cli.profile import ProfileKeys
from commucat_cli.transport import ServerAddress, Trust

README = Path(__file__).parents[2] / "commucat_cli" / "README.md"


async def test_the_example_relays(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(README), "exec"), names)
    relay: Callable[..., Awaitable[int]] = names["relay"]
    server = ScriptedServer()
    async with on_tcp(server, tmp_path) as (url, cert):
        about = parameters(ProfileKeys.generate(), server)
        bodies = [b"%d" % number for number in range(50)]
        assert await relay(ServerAddress.parse(url), Trust(ca_file=cert), about, bodies) == 50
    assert [frame.payload for frame in server.messages()] == bodies
