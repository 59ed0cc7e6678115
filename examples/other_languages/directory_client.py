"""Calls the user directory: `directory_client.py ID..`. Needs a worker, such as the example directory_server."""

import asyncio
import os
import sys

import rpc_runtime
from user_directory import DirectoryErrorUnknownUser, UserDirectoryClient


async def main() -> None:
    async with rpc_runtime.connect(os.environ.get("AMQP_URL", "amqp://localhost")) as connection:
        directory = UserDirectoryClient(connection)
        for id in sys.argv[1:]:
            try:
                print(id, "->", await directory.get_email(id))
            except DirectoryErrorUnknownUser as error:
                print("no user", error.id)


asyncio.run(main())
