"""An SSH server for tests, which runs any command on this machine for clients with any key.

python tests/support/ssh_server.py PORT_FILE
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import asyncssh
from asyncssh.connection import SSHConnection

IGNORE = 2
"""SSH_MSG_IGNORE, which paramiko fills with invalid bytes that OpenSSH accepts."""


class Server(asyncssh.SSHServer):
    """Accept any key, as the server only listens on 127.0.0.1 during a test."""

    def public_key_auth_supported(self):
        return True

    def validate_public_key(self, username, key):
        return True


async def run(process):
    """Run a command until it ends or the client disconnects."""
    child = await asyncio.create_subprocess_shell(
        process.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"SHELL": "/bin/sh"},
    )
    await process.redirect(stdout=child.stdout)
    ended, gone = asyncio.ensure_future(child.wait()), process.channel.wait_closed()
    await asyncio.wait({ended, asyncio.ensure_future(gone)}, return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    process.exit(await ended)


async def main(port_file):
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[key],
        process_factory=run,
        encoding=None,
        line_editor=False,
    )
    Path(port_file).write_text(str(server.get_port()))
    await server.wait_closed()


SSHConnection._packet_handlers[IGNORE] = lambda *_: None

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
